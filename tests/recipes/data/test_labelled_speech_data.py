"""The data set of labelled recordings: whole and padded, masks of training alone, and recordings that cannot be decoded."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.batch import Batch
from recipes.config import Recipe
from recipes.data.audio import decode_audio, normalize
from recipes.data.heldout import every_batch
from recipes.data.labelled_folder import load_split_of
from recipes.data.labelled_speech_data import LabelledSpeechDataset
from recipes.errors import ConfigError
from recipes.modalities.registry import source_of
from recipes.supervised_config import SPECIAL_LETTERS
from tests.recipes.data.labelled_recordings import LENGTHS, labelled_recipe, prepare, tone, write_data, write_split
from tests.recipes.data.recordings import RATE, encode, write_recordings

MASKS = {"time_mask_prob": 0.65, "time_mask_length": 5, "channel_mask_prob": 0.5, "channel_mask_length": 4}
Open = Callable[..., LabelledSpeechDataset]
ALPHABET = (*SPECIAL_LETTERS, *"ghilow")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Transcribed recordings with time and channel masks."""
    return labelled_recipe(write_data(tmp_path_factory.mktemp("data")), **MASKS)


@pytest.fixture(scope="module")
def open_split(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Open:
    """A function that opens a split of the prepared recordings. Keywords change settings, named as section__name."""
    folder = prepare(recipe, tmp_path_factory.mktemp("run") / "prepared")

    def open_it(split: str = "train", seed: int = 1, **data: Any) -> LabelledSpeechDataset:
        changed: Any = replace(recipe, run=replace(recipe.run, seed=seed), data=replace(recipe.data, **data))
        return source_of(changed).open_split(changed, folder, split)  # type: ignore[attr-defined]

    return open_it


def items_of(dataset: LabelledSpeechDataset) -> list[int]:
    return dataset._items_K.tolist()


def collated(dataset: LabelledSpeechDataset, *indices: int, epoch: int = 0) -> Batch:
    return dataset.collate([dataset.example(epoch, index) for index in indices])


def test_a_batch_has_whole_normalised_recordings_padded_to_the_longest_and_their_letters(open_split: Open) -> None:
    test = open_split("test")
    batch = collated(test, *range(6))
    assert batch.inputs.shape == (6, max(LENGTHS[:6])) and batch.targets is not None and batch.targets.lengths_B is not None
    frames = [(length - 20) // 10 + 1 for length in LENGTHS[:6]]
    assert batch.padding_mask_BS is not None and (~batch.padding_mask_BS).sum(1).tolist() == frames and batch.num_tokens == sum(frames)
    for number, length in enumerate(LENGTHS[:6]):
        waveform = normalize(decode_audio(encode(tone(length, number % 2, number)), RATE))
        assert np.array_equal(batch.inputs[number, :length].numpy(), waveform) and not batch.inputs[number, length:].any()
    letters = zip(batch.targets.values.tolist(), batch.targets.lengths_B.tolist(), strict=True)
    said = ["".join(ALPHABET[number] for number in row[:length]) for row, length in letters]
    assert said == ["low", "high"] * 3 and batch.targets.index_B.tolist() == list(range(6))


def test_recordings_of_equal_length_have_a_padding_mask_too(open_split: Open) -> None:
    batch = collated(open_split("test"), 2)
    assert batch.padding_mask_BS is not None and not batch.padding_mask_BS.any()


def test_only_training_is_masked(open_split: Open) -> None:
    batch = collated(open_split("train"), 0, 1, 2)
    channels_BD = batch.masks.channel_mask_BD
    assert channels_BD is not None and channels_BD.shape == (3, 16) and batch.padding_mask_BS is not None
    assert batch.masks.mask_BS.any(1).all() and not (batch.masks.mask_BS & batch.padding_mask_BS).any()
    for split in ("valid", "test"):
        held = collated(open_split(split), 0, 1, 2)
        assert not held.masks.mask_BS.any() and held.masks.channel_mask_BD is None
    plain = collated(open_split("train", time_mask_prob=0.0, channel_mask_prob=0.0), 0, 1, 2)
    assert not plain.masks.mask_BS.any() and plain.masks.channel_mask_BD is None


def test_masks_depend_on_seed_epoch_and_recording_alone(open_split: Open) -> None:
    def drawn(*indices: int, epoch: int = 0, seed: int = 1) -> list[bytes]:
        dataset = open_split("train", seed)
        examples = [dataset.example(epoch, index) for index in indices]
        return [one.speech.mask.tobytes() + one.channel_mask.tobytes() for one in examples if one.channel_mask is not None]

    first, second = drawn(3, 4)
    assert drawn(4, 3, 3) == [second, first, first]
    assert len({first, *drawn(3, epoch=1), *drawn(3, seed=2)}) == 3


def test_spans_cover_the_published_share_of_frames_and_channels(open_split: Open) -> None:
    dataset = open_split("train", time_mask_prob=0.5, channel_mask_prob=0.25)
    examples = [dataset.example(epoch, index) for epoch in range(40) for index in range(len(dataset))]
    frames = np.concatenate([one.speech.mask for one in examples])
    channels = np.concatenate([one.channel_mask for one in examples if one.channel_mask is not None])
    assert frames.mean() == pytest.approx(1 - (1 - 0.5 / 5) ** 5, abs=0.03), "overlaps of spans of 5 frames"
    assert channels.mean() == pytest.approx(0.25, abs=0.03), "one span of 4 of 16 channels on average"
    rare = open_split("train", channel_mask_prob=0.1)
    drawn = [rare.example(0, index).channel_mask for index in range(len(rare))]
    assert any(channels_D is not None and not channels_D.any() for channels_D in drawn), "sometimes no channel is masked"


def test_the_order_has_batches_of_similar_length(open_split: Open) -> None:
    dataset = open_split("train")
    order = dataset.order(np.random.default_rng(0))
    assert sorted(order) == list(range(18))
    spreads = [np.ptp([LENGTHS[items_of(dataset)[index]] for index in order[start : start + 8]]) for start in (0, 8)]
    assert max(spreads) < 0.7 * (max(LENGTHS) - min(LENGTHS))


def test_long_recordings_of_classes_are_cropped_at_random_in_training_and_in_the_middle_else(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_split(tmp_path / "data", split, [3000] * 4)
    recipe = labelled_recipe(tmp_path / "data", "classify", max_seconds=0.1)
    folder = prepare(recipe, tmp_path / "prepared")
    train, valid = source_of(recipe).open_data(recipe, folder)
    middle = normalize(decode_audio(encode(tone(3000, 1, 1)), RATE))[700:2300]
    assert np.array_equal(valid.example(0, 1, ()).speech.waveform, middle)
    crops = [train.example(epoch, 1, ()).speech.waveform for epoch in range(3)]
    assert {len(crop) for crop in crops} == {1600} and len({crop.tobytes() for crop in crops}) == 3


def test_a_recording_shorter_than_one_frame_is_padded_to_one(tmp_path: Path) -> None:
    recipe = labelled_recipe(write_split(tmp_path / "data", "train", [7, *LENGTHS]), "classify", heldout_fraction=0.1)
    train, _ = source_of(recipe).open_data(recipe, prepare(recipe, tmp_path / "prepared"))
    assert 0 in items_of(train), "the shortest one is trained on"
    example = train.example(0, items_of(train).index(0), ())
    assert len(example.speech.waveform) == 20 and example.speech.mask.shape == (1,)


def spoiled(tmp_path: Path, **data: Any) -> tuple[Any, Any]:
    """Return the training and validation data of files of which the third of each class is cut off after the preparation."""
    for name in ("no", "yes"):
        write_recordings(tmp_path / "raw" / "train" / name, [400 + number for number in range(8)])
        write_recordings(tmp_path / "raw" / "valid" / name, [400 + number for number in range(4)])
    recipe = labelled_recipe(tmp_path / "raw", "classify", **data)
    folder = prepare(recipe, tmp_path / "prepared")
    for path in (tmp_path / "raw").rglob("002.wav"):
        path.write_bytes(path.read_bytes()[:300])
    return source_of(recipe).open_data(recipe, folder)


def test_in_training_a_recording_that_cannot_be_decoded_is_replaced_with_its_label_and_reported(tmp_path: Path) -> None:
    train, _ = spoiled(tmp_path)
    batch = train.collate([train.example(0, index, ()) for index in (1, 2)])
    assert batch.targets.index_B.tolist() == [1, 3] and batch.targets.values.tolist() == [0, 0]
    last = train.example(0, 10, ())
    assert last.index == 11
    assert sorted(item.where.rpartition("/raw/")[2] for item in train.take_bad()) == ["train/no/002.wav", "train/yes/002.wav"]
    assert train.take_bad() == []


def test_in_an_evaluation_it_is_not_counted_and_the_others_are_counted_once(tmp_path: Path) -> None:
    _, valid = spoiled(tmp_path)
    counted = [index for batch in every_batch(valid, 3, 0, 1) for index in batch.targets.index_B.tolist()]  # type: ignore[union-attr]
    assert sorted(index for index in counted if index >= 0) == [0, 1, 3, 4, 5, 7]
    assert len(valid.take_bad()) == 2


def test_if_none_can_be_decoded_an_error_says_so(tmp_path: Path) -> None:
    train, _ = spoiled(tmp_path)
    for path in (tmp_path / "raw").rglob("*.wav"):
        path.unlink()
    with pytest.raises(ConfigError, match="none of 16 items can be decoded"):
        train.example(0, 0, ())


def test_other_recordings_than_the_prepared_ones_are_refused(tmp_path: Path) -> None:
    for name in ("no", "yes"):
        write_recordings(tmp_path / "raw" / name, [400] * 4)
    recipe = labelled_recipe(tmp_path / "raw", "classify")
    folder = prepare(recipe, tmp_path / "prepared")
    (tmp_path / "raw" / "no" / "001.wav").unlink()
    with pytest.raises(ConfigError, match=r"raw: other recordings than when .*prepared was prepared; remove that folder"):
        source_of(recipe).open_data(recipe, folder)


def test_a_worker_process_gets_the_same_samples(open_split: Open) -> None:
    dataset = open_split("train")
    other = pickle.loads(pickle.dumps(dataset))
    one, same = collated(dataset, 0, 5, epoch=3), collated(other, 0, 5, epoch=3)
    assert torch.equal(one.inputs, same.inputs) and torch.equal(one.masks.mask_BS, same.masks.mask_BS)
    assert dataset.fingerprint == other.fingerprint


def test_a_prepared_split_has_the_arrays_that_the_data_set_reads(recipe: Recipe, tmp_path: Path) -> None:
    arrays = load_split_of(prepare(recipe, tmp_path / "prepared"), "test").arrays
    assert sorted(arrays) == ["digest", "item", "length", "letter_ends", "letters", "split"]
