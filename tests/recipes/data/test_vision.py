"""The image data set: views and masks by (seed, epoch, index) in any order and process, and replacements of bad pictures."""

import io
import multiprocessing
import pickle
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.config import BlockMaskConfig
from model.frontends.config import VisionFrontendConfig
from model.masking import block_mask
from recipes.data.images import IMAGES, center_view, decode_image, random_view
from recipes.data.media_folder import open_prepared
from recipes.data.media_source import open_media
from recipes.data.packing import Split
from recipes.data.vision import MAX_REPLACEMENTS, VisionDataset, VisionExample
from recipes.data.vision_folder import prepare_vision
from recipes.data_config import VisionDataConfig
from recipes.errors import ConfigError
from tests.recipes.data.numbers_data import epoch_of

FRONTEND = VisionFrontendConfig(image_size=32, patch_size=8)
MASK = BlockMaskConfig(num_patches=9, min_block=2, max_block=16)
DATA = VisionDataConfig(heldout_fraction=0.2)
ALL = tuple(range(8))


def encoded(image: Image.Image, kind: str) -> bytes:
    """Return the bytes of the file."""
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def colours(seed: int) -> Image.Image:
    """Return a picture that depends on the seed and is smooth enough for JPEG."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((60, 48), Image.Resampling.BILINEAR)


def write_images(folder: Path, num_images: int = 30) -> Path:
    """Write a folder of JPEG files in two classes."""
    for number in range(num_images):
        place = folder / ("even", "odd")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:02}.jpg").write_bytes(encoded(colours(number), "JPEG"))
    return folder


def open_dataset(prepared: Path, split: Split = "train", *, mask: BlockMaskConfig = MASK, data: VisionDataConfig = DATA, seed: int = 1):
    """Return the data set with the settings of this file."""
    return VisionDataset(prepared, split, frontend=FRONTEND, mask=mask, data=data, seed=seed)


def make_dataset(folder: Path, **options: object) -> VisionDataset:
    """Return the training split of a folder of images, without a held-out split."""
    data = replace(DATA, path=str(folder), heldout_fraction=0.0, max_bad_fraction=0.5)
    return open_dataset(prepare_vision(data, folder.parent / f"{folder.name}-prepared", num_processes=1), data=data, **options)


def equal(one: VisionExample, other: VisionExample) -> bool:
    """True if both examples are equal bit for bit."""
    return np.array_equal(one.image, other.image) and np.array_equal(one.mask, other.mask)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures."""
    return write_images(tmp_path_factory.mktemp("vision") / "images")


@pytest.fixture(scope="module")
def prepared(folder: Path) -> Path:
    """The thirty pictures, prepared."""
    return prepare_vision(replace(DATA, path=str(folder)), folder.parent / "prepared", num_processes=1)


@pytest.fixture
def dataset(prepared: Path) -> VisionDataset:
    """The training split of the thirty pictures."""
    return open_dataset(prepared)


@pytest.mark.parametrize(("seed", "split", "epoch"), [(1, "train", 2), (5, "train", 0), (0, "valid", 0), (1, "valid", 3)])
def test_an_example_is_the_pictures_view_and_a_block_mask_by_seed_split_epoch_and_index(
    prepared: Path, seed: int, split: Split, epoch: int
) -> None:
    data = replace(DATA, crop_scale=(0.2, 0.7), color_jitter=0.3, flip_prob=0.4)
    dataset = open_dataset(prepared, split, data=data, seed=seed)
    opened = open_prepared(prepared)
    for index in range(5):
        example = dataset.example(epoch, index, ALL)
        assert example.image.shape == (3, 32, 32) and example.image.dtype == np.uint8
        assert example.mask.shape == (16,) and example.mask.dtype == bool and 1 <= example.mask.sum() <= 9
        image = decode_image(opened.media.read(int(opened.splits[split][index])))
        entropy = (seed, ["train", "valid"].index(split), epoch, index)
        view_rng, mask_rng = (np.random.Generator(np.random.Philox(s)) for s in np.random.SeedSequence(entropy).spawn(2))
        view_CHW = random_view(image, 32, data, view_rng) if split == "train" else center_view(image, 32)
        np.testing.assert_array_equal(example.image, view_CHW)
        np.testing.assert_array_equal(example.mask, block_mask(4, MASK, mask_rng))


def test_published_sizes_mask_120_patches_or_a_little_less(prepared: Path) -> None:
    published = VisionDataset(prepared, "train", frontend=VisionFrontendConfig(), mask=BlockMaskConfig(), data=DATA, seed=1)
    example = published.example(0, 0, ALL)
    assert example.image.shape == (3, 224, 224) and example.mask.shape == (196,) and 105 <= example.mask.sum() <= 120


def test_an_example_is_a_function_of_seed_epoch_and_index(dataset: VisionDataset, prepared: Path) -> None:
    forwards = [dataset.example(2, index, ALL) for index in range(6)]
    backwards = [open_dataset(prepared).example(2, index, (index,)) for index in reversed(range(6))]
    assert all(map(equal, forwards, reversed(backwards)))
    others = [dataset.example(3, 5, ALL), dataset.example(2, 4, ALL), open_dataset(prepared, seed=2).example(2, 5, ALL)]
    assert not any((forwards[5].image == other.image).all() for other in others)
    assert any((forwards[5].mask != other.mask).any() for other in others)


def test_views_and_masks_change_with_the_epoch(dataset: VisionDataset) -> None:
    examples = [dataset.example(epoch, 3, ALL) for epoch in range(12)]
    assert len({example.image.tobytes() for example in examples}) == 12
    assert len({example.mask.tobytes() for example in examples}) > 6


def test_pickled_data_reads_the_same_here_and_in_another_process(dataset: VisionDataset) -> None:
    content = pickle.dumps(dataset)
    assert len(content) < 4_000  # names and settings, neither an index nor pictures
    copy = pickle.loads(content)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        futures = [pool.submit(dataset.example, 1, index, ALL) for index in (4, 0)]
        there = [future.result(timeout=120) for future in futures]
    for index, other in zip((4, 0), there, strict=True):
        example = dataset.example(1, index, ALL)
        assert equal(example, other) and equal(example, copy.example(1, index, ALL))


def test_another_mask_setting_keeps_the_views_and_another_view_setting_keeps_the_masks(dataset: VisionDataset, prepared: Path) -> None:
    other_mask = open_dataset(prepared, mask=replace(MASK, num_patches=4))
    other_view = open_dataset(prepared, data=replace(DATA, crop_scale=(0.5, 0.6), color_jitter=0.0))
    for index in range(4):
        example = dataset.example(0, index, ALL)
        np.testing.assert_array_equal(example.image, other_mask.example(0, index, ALL).image)
        np.testing.assert_array_equal(example.mask, other_view.example(0, index, ALL).mask)
        assert (example.mask != other_mask.example(0, index, ALL).mask).any()
        assert (example.image != other_view.example(0, index, ALL).image).any()


def test_the_heldout_split_has_central_views_of_other_pictures(dataset: VisionDataset, prepared: Path) -> None:
    heldout = open_dataset(prepared, "valid")
    assert len(heldout) == 6 and len(dataset) == 24 and heldout.fingerprint == dataset.fingerprint
    assert not {*heldout._items.tolist()} & {*dataset._items.tolist()}
    for index in range(6):
        expected = center_view(decode_image(heldout._prepared.media.read(heldout._items[index])), 32)
        for epoch in (0, 7):
            np.testing.assert_array_equal(heldout.example(epoch, index, ALL).image, expected)
    assert any((heldout.example(0, i, ALL).mask != dataset.example(0, i, ALL).mask).any() for i in range(6))


def test_an_epoch_reads_every_picture_once_in_a_random_order(dataset: VisionDataset) -> None:
    orders = [epoch_of(dataset, epoch) for epoch in (0, 1)]
    assert orders[0] != orders[1] and all(sorted(order) == list(range(24)) for order in orders)


def test_a_batch_holds_the_examples_and_its_numbers_agree(dataset: VisionDataset) -> None:
    examples = [dataset.example(0, index, ALL) for index in range(4)]
    batch = dataset.collate(examples)
    assert batch.inputs is batch.clean_inputs and batch.inputs.shape == (4, 3, 32, 32) and batch.inputs.dtype == torch.uint8
    assert batch.inputs.is_contiguous() and batch.masks.mask_BS.dtype == torch.bool and batch.masks.masked_index_M.dtype == torch.int64
    for row, example in enumerate(examples):
        np.testing.assert_array_equal(batch.inputs[row].numpy(), example.image)
        np.testing.assert_array_equal(batch.masks.mask_BS[row].numpy(), example.mask)
    assert torch.equal(batch.masks.masked_index_M, batch.masks.mask_BS.flatten().nonzero().squeeze(1))
    assert batch.padding_mask_BS is None and batch.clean_padding_mask_BS is None
    assert batch.num_tokens == 4 * 16


ODD_PICTURES = {
    "cmyk.jpg": encoded(colours(1).convert("CMYK"), "JPEG"),
    "grey.png": encoded(colours(2).convert("L"), "PNG"),
    "palette.png": encoded(colours(3).quantize(16), "PNG"),
    "pixel.png": encoded(Image.new("RGB", (1, 1), (9, 99, 199)), "PNG"),
    "rgba.png": encoded(colours(4).convert("RGBA"), "PNG"),
    "sixteen.png": encoded(Image.fromarray(np.arange(60 * 40, dtype=np.uint16).reshape(60, 40) * 27), "PNG"),
}
BAD_FILES = {"empty.jpg": b"", "text.jpg": b"no picture\n" * 30, "truncated.jpg": encoded(colours(5), "JPEG")[:400]}


def test_odd_pictures_are_read_and_bad_files_are_replaced_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, content in (ODD_PICTURES | BAD_FILES).items():
        (folder / name).write_bytes(content)
    dataset = make_dataset(folder)
    assert len(dataset) == 9
    replaced: list[str] = []
    for index in range(9):
        assert dataset.example(0, index, ALL).image.shape == (3, 32, 32)
        replaced += [Path(item.where).name for item in dataset.take_bad()]
    # sorted: cmyk empty grey palette pixel rgba sixteen text truncated; the last two are followed by cmyk again
    assert Counter(replaced) == {"empty.jpg": 1, "text.jpg": 1, "truncated.jpg": 2}
    assert dataset.take_bad() == []


def test_bad_items_come_with_their_full_path_and_reason(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 4)
    bad = folder / "even" / "02.jpg"
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) - 200])
    dataset = make_dataset(folder)
    for index in range(4):
        dataset.example(0, index, ALL)
    items = dataset.take_bad()
    assert [item.where for item in items] == [str(bad)] and "truncated" in items[0].reason


def test_a_replacement_is_the_next_good_picture_with_the_randomness_of_the_one_it_replaces(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 5)
    names = sorted(folder.rglob("*.jpg"))
    intact = make_dataset(folder).example(0, 1, ALL)
    for name in names[1:3]:
        name.write_bytes(b"")
    dataset = make_dataset(folder)
    replaced = dataset.example(0, 1, ALL)
    np.testing.assert_array_equal(replaced.mask, intact.mask)
    view_seed, _ = np.random.SeedSequence((1, 0, 0, 1)).spawn(2)
    content = names[3].read_bytes()
    expected = random_view(decode_image(content), 32, DATA, np.random.Generator(np.random.Philox(view_seed)))
    np.testing.assert_array_equal(replaced.image, expected)
    again = pickle.loads(pickle.dumps(dataset))
    again.example(0, 4, ALL)
    again.example(0, 2, ALL)
    assert equal(again.example(0, 1, ALL), replaced)


def test_a_replacement_is_of_the_same_split(tmp_path: Path) -> None:
    data = replace(DATA, path=str(write_images(tmp_path / "images", 10)), heldout_fraction=0.3)
    prepared = open_prepared(prepare_vision(data, tmp_path / "prepared", num_processes=1))
    _, second, third = prepared.splits["valid"].tolist()
    assert (second, third) != (1, 2), "the number of an item is not its index in the split"
    Path(prepared.media.where(second)).write_bytes(b"")
    example = open_dataset(prepared.folder, "valid", data=data).example(0, 1, ALL)
    np.testing.assert_array_equal(example.image, center_view(decode_image(prepared.media.read(third)), 32))


def test_a_picture_removed_after_preparing_is_replaced_and_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 4)
    dataset = make_dataset(folder)
    (folder / "odd" / "03.jpg").unlink()
    dataset.example(0, 3, ALL)
    items = dataset.take_bad()
    assert [Path(item.where).name for item in items] == ["03.jpg"] and "No such file" in items[0].reason


def test_the_search_for_a_replacement_ends_soon_if_no_picture_is_good(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(MAX_REPLACEMENTS + 20):
        (folder / f"{number:03}.jpg").write_bytes(b"")
    dataset = make_dataset(folder)
    with pytest.raises(ConfigError, match=rf"none of {MAX_REPLACEMENTS + 1} items can be decoded.*000.jpg \(empty file\)"):
        dataset.example(0, 0, ALL)


@pytest.mark.parametrize("data", [replace(DATA, flip_prob=2.0), replace(DATA, color_jitter=-1.0)])
def test_impossible_views_are_refused_before_anything_is_written(
    data: VisionDataConfig, folder: Path, prepared: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"is not in|is below 0"):
        prepare_vision(replace(data, path=str(folder)), tmp_path / "prepared")
    assert not any(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"is not in|is below 0"):
        open_dataset(prepared, data=data)


def test_the_shipped_sample_is_complete_balanced_and_credited(tmp_path: Path) -> None:
    media = open_media(None, IMAGES, column="image")
    assert Counter(media.label(index) for index in range(len(media))) == dict.fromkeys(
        ("daisy", "dandelion", "roses", "sunflowers", "tulips"), 80
    )
    assert min(min(decode_image(media.read(index)).size) for index in range(len(media))) == 128
    lines = (IMAGES.sample / "LICENSE.txt").read_text().splitlines()
    credited = {line.split(" ", 1)[0] for line in lines if re.search(r" CC-BY .*by \S.*", line) and "flickr.com" in line}
    assert credited == {str(Path(media.where(index)).relative_to(IMAGES.sample)) for index in range(len(media))}
    assert 3_000_000 < sum(path.stat().st_size for path in IMAGES.sample.rglob("*") if path.is_file()) < 3_500_000
    dataset = open_dataset(prepare_vision(VisionDataConfig(), tmp_path / "prepared", num_processes=1))
    assert len(dataset) == 396
