"""The data set of labelled images: counted random views, pairs that do not depend on the micro-batch, central views, damaged images."""

import pickle
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.frontends.pixels import normalise
from recipes.config import Recipe
from recipes.data.examples import ImageMaker
from recipes.data.images import decode_image, pixels_of
from recipes.data.labelled_folder import load_split_of
from recipes.data.labelled_vision_data import LabelledVisionDataset
from recipes.data.mixing import class_shares
from recipes.settings import with_values
from tests.recipes.data.test_labelled_vision_reader import prepare, recipe_of
from tests.recipes.finetune.pictures import write_images

CLASSES = ("blue", "red")
MIXED = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}
PAIRS = [(0, number, (number - number % 2, number - number % 2 + 1)) for number in range(8)]
"""Positions of four pairs of epoch 0."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty training images and four validation images of two classes."""
    folder = tmp_path_factory.mktemp("labelled")
    return prepare(recipe_of(write_images(folder / "images", 24), heldout_fraction=1 / 6), folder / "prepared")


def open_dataset(prepared: Path, split: str = "train", seed: int = 1, **changes: Any) -> LabelledVisionDataset:
    """Open a split, for 32 pixels, with label smoothing 0.1."""
    recipe: Recipe = with_values(recipe_of(prepared, **changes), {"objective.labels": CLASSES})
    frontend = replace(recipe.frontend, image_size=32)  # type: ignore[call-arg]
    sections: dict[str, Any] = {"frontend": frontend, "data": recipe.data, "objective": recipe.objective}
    return LabelledVisionDataset(prepared, split, **sections, seed=seed)


def test_a_view_is_a_function_of_seed_epoch_and_index(prepared: Path) -> None:
    one, same, other = open_dataset(prepared), pickle.loads(pickle.dumps(open_dataset(prepared))), open_dataset(prepared, seed=2)
    first = one.example(0, 3)
    same.example(5, 2)
    assert np.array_equal(first.view, same.example(0, 3).view) and first.view.dtype == np.float32 and first.view.shape == (3, 32, 32)
    for changed in (one.example(1, 3), one.example(0, 4), other.example(0, 3)):
        assert not np.array_equal(first.view, changed.view)


def test_held_out_images_have_the_view_of_probe_and_export_in_every_epoch(prepared: Path) -> None:
    dataset = open_dataset(prepared, "valid", **MIXED)
    maker = ImageMaker(dataset._maker.frontend)
    item = int(load_split_of(prepared, "valid").arrays["items"][2])
    expected = maker.of_image(decode_image(dataset._media.read(item))).image
    assert np.array_equal(dataset.example(0, 2).view, expected) and np.array_equal(dataset.example(7, 2).view, expected)
    batch = dataset.collate([dataset.example(0, number) for number in range(3)])
    assert torch.equal(batch.inputs[2], torch.from_numpy(expected)) and batch.targets is not None
    assert batch.targets.values.tolist() == load_split_of(prepared, "valid").arrays["target"][:3].tolist()
    assert batch.targets.index_B.tolist() == [0, 1, 2] and batch.masks.num_masked == 0 and batch.padding_mask_BS is None


def test_without_crop_and_flip_a_training_image_is_the_whole_picture_resized(prepared: Path) -> None:
    dataset = open_dataset(prepared, crop_scale=(1.0, 1.0), flip_prob=0.0)
    view = dataset.example(0, 0).view
    image = decode_image(dataset._media.read(int(dataset._items_N[0])))
    assert np.array_equal(view, normalise(torch.from_numpy(pixels_of(image.resize((32, 32), 3)))))


def test_mixed_pairs_do_not_depend_on_the_micro_batch_and_their_shares_are_smoothed(prepared: Path) -> None:
    dataset = open_dataset(prepared, **MIXED)
    examples = [dataset.example(*position) for position in PAIRS]
    whole, parts = dataset.collate(examples), [dataset.collate(examples[start : start + 2]) for start in range(0, 8, 2)]
    assert whole.targets is not None and all(part.targets is not None for part in parts)
    assert torch.equal(whole.inputs, torch.cat([part.inputs for part in parts])) and whole.inputs is whole.clean_inputs
    assert torch.equal(whole.targets.values, torch.cat([part.targets.values for part in parts if part.targets]))
    plain = torch.from_numpy(np.stack([example.view for example in examples]))
    assert not torch.equal(whole.inputs, plain), "the images are mixed"
    assert torch.allclose(whole.targets.values.sum(1), torch.ones(8)) and whole.targets.values.min() >= 0.05
    assert whole.targets.index_B.tolist() == list(range(8))


def test_a_pair_is_mixed_differently_in_another_epoch(prepared: Path) -> None:
    dataset = open_dataset(prepared, crop_scale=(1.0, 1.0), flip_prob=0.0, **MIXED)
    batches = [dataset.collate([dataset.example(epoch, number) for number in (4, 5)]) for epoch in (0, 1)]
    assert not torch.equal(batches[0].inputs, batches[1].inputs)


def test_without_mixing_targets_are_classes_which_the_loss_smooths(prepared: Path) -> None:
    dataset = open_dataset(prepared)
    batch = dataset.collate([dataset.example(0, number) for number in range(3)])
    assert batch.targets is not None and batch.targets.values.dtype == torch.int64
    assert torch.equal(batch.targets.values, torch.from_numpy(dataset._arrays["target"][:3]))


def test_only_cutmix_of_equal_images_leaves_them_and_gives_shares_of_their_classes(prepared: Path) -> None:
    dataset = open_dataset(prepared, cutmix_alpha=1.0)
    example = dataset.example(0, 0)
    batch = dataset.collate([example, example])
    assert torch.equal(batch.inputs[0], torch.from_numpy(example.view)) and batch.targets is not None
    assert torch.allclose(batch.targets.values[0], class_shares(torch.from_numpy(dataset._arrays["target"][:1]), 2, 0.1)[0])


@pytest.mark.skipif(find_spec("torchvision") is None, reason="needs the extra `vision`")
def test_augmentation_changes_the_view_and_leaves_crop_and_flip(prepared: Path) -> None:
    plain, erased = open_dataset(prepared), open_dataset(prepared, erase_prob=1.0)
    one, other = plain.example(0, 3).view, erased.example(0, 3).view
    assert 0.3 < (one == other).mean() < 0.99, "outside of the rectangle nothing changes"
    augmented = open_dataset(prepared, rand_augment_ops=2, rand_augment_magnitude=27)
    assert any(not np.array_equal(plain.example(0, number).view, augmented.example(0, number).view) for number in range(4))
    assert np.array_equal(augmented.example(0, 3).view, augmented.example(0, 3).view)


def test_a_damaged_training_image_is_replaced_with_its_target_and_a_held_out_one_is_not_counted(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 12)
    folder = prepare(recipe_of(images, heldout_fraction=0.25), tmp_path / "prepared")
    train, valid = open_dataset(folder), open_dataset(folder, "valid")
    targets = valid._arrays["target"].tolist()
    damaged = targets.index(1 - targets[0])  # not of the first one's class
    for split, index in (("train", 2), ("valid", damaged)):
        (images / load_split_of(folder, split).rows[index].shown).write_bytes(b"no image")
    replaced = train.example(0, 2)
    assert (replaced.index, replaced.shown) == (2, 3)
    batch = train.collate([replaced])
    assert batch.targets is not None and batch.targets.values.tolist() == [int(train._arrays["target"][3])]
    heldout = valid.collate([valid.example(0, number) for number in range(3)])
    assert heldout.targets is not None and heldout.targets.index_B.tolist() == [-1 if number == damaged else number for number in range(3)]
    assert heldout.targets.values.tolist() == targets, "the scores of a test split need its own label"
    bad = [*train.take_bad(), *valid.take_bad()]
    assert [Path(item.file or "").name for item in bad] == [Path(item.where).name for item in bad] and len(bad) == 2
    assert train.take_bad() == []


def test_a_split_without_labels_can_be_read(tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "train", 8)
    write_images(tmp_path / "data" / "test", 3, ("", ""))
    test = open_dataset(prepare(recipe_of(tmp_path / "data"), tmp_path / "prepared"), "test")
    batch = test.collate([test.example(0, number) for number in range(3)])
    assert batch.targets is not None and batch.targets.values.tolist() == [-1, -1, -1] and batch.targets.index_B.tolist() == [0, 1, 2]
