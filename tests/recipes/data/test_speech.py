"""The speech data set: the same samples on every topology, and crops and masks of a group. Damaged data: test_speech_damage.py."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.batch import Batch
from model.config import SpanMaskConfig
from model.frontends.speech_config import SpeechFrontendConfig
from model.masking import span_mask, unmask_to
from recipes.data import speech
from recipes.data.audio import decode_audio, normalize, read_audio
from recipes.data.loader import rank_share
from recipes.data.media_folder import open_prepared
from recipes.data.order import UpdateOrder
from recipes.data.speech import SpeechDataset, SpeechExample, check_mask
from recipes.data.speech_folder import prepare_speech
from recipes.data_config import SpeechDataConfig
from recipes.errors import ConfigError
from tests.recipes.data.recordings import FRONTEND, MASK, RATE, clips_config, open_split, write_recordings

LENGTHS = [400 + 37 * (7 * number % 41) for number in range(41)]
"""400 to 1880 samples, not sorted."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> SpeechDataConfig:
    """41 recordings, groups of 4, crops of at most 1600 samples."""
    return clips_config(write_recordings(tmp_path_factory.mktemp("clips"), LENGTHS))


@pytest.fixture(scope="module")
def folder(clips: SpeechDataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 41 recordings, prepared."""
    return prepare_speech(clips, FRONTEND, tmp_path_factory.mktemp("run") / "prepared", num_processes=1)


@pytest.fixture(scope="module")
def train(clips: SpeechDataConfig, folder: Path) -> SpeechDataset:
    """The training split: 37 of the recordings."""
    return open_split(clips, folder)


def micro_batches(dataset: SpeechDataset, order: UpdateOrder, *, update: int, dp_size: int, micro_batch_size: int) -> list[Batch]:
    """Return the micro-batches of all ranks, in the order of the global batch."""
    positions = order.positions(update)
    batches = []
    for rank in range(dp_size):
        own = positions[rank_share(len(positions), rank, dp_size)]
        starts = range(0, len(own), micro_batch_size)
        batches += [dataset.collate([dataset.example(*p) for p in own[start : start + micro_batch_size]]) for start in starts]
    return batches


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(update=st.integers(0, 9), dp_size=st.sampled_from([1, 2, 4]), micro_batch_size=st.sampled_from([1, 2, 4]), shuffle=st.randoms())
def test_one_rank_many_ranks_and_accumulation_see_the_same_samples(
    train: SpeechDataset, clips: SpeechDataConfig, folder: Path, update: int, dp_size: int, micro_batch_size: int, shuffle: Any
) -> None:
    order = UpdateOrder(train, seed=1, global_batch_size=16, group_size=4)
    whole = micro_batches(train, order, update=update, dp_size=1, micro_batch_size=4)
    other = open_split(clips, folder)
    for position in shuffle.sample(order.positions(update), 3):  # earlier calls do not matter
        other.example(*position)
    parts = micro_batches(other, order, update=update, dp_size=dp_size, micro_batch_size=micro_batch_size)
    rows = [[row for batch in batches for row in zip(batch.inputs, batch.masks.mask_BS, strict=True)] for batches in (whole, parts)]
    assert len(rows[0]) == len(rows[1]) == 16
    for (one_T, mask_S), (other_T, other_mask_S) in zip(*rows, strict=True):
        assert torch.equal(one_T, other_T) and torch.equal(mask_S, other_mask_S)
    assert sum(batch.num_tokens for batch in whole) == sum(batch.num_tokens for batch in parts)
    assert all(batch.padding_mask_BS is None for batch in parts)


def test_a_group_shares_one_length_and_one_masked_count(train: SpeechDataset) -> None:
    group = (30, 3, 17, 8)
    examples = [train.example(2, index, group) for index in group]
    lengths = sorted(LENGTHS[item] for item in train._items_K)
    assert {len(example.waveform) for example in examples} == {lengths[3]}
    num_frames = FRONTEND.num_frames(lengths[3])
    assert {len(example.mask) for example in examples} == {num_frames}
    own = [span_mask(num_frames, MASK, train._rng(2, index, 0)) for index in group]
    assert {int(example.mask.sum()) for example in examples} == {min(int(mask_S.sum()) for mask_S in own)}
    for example, mask_S in zip(examples, own, strict=True):
        assert not (example.mask & ~mask_S).any()  # only frames that the member's own mask has are masked


def test_crops_are_at_most_max_seconds_and_a_part_of_the_normalised_recording(train: SpeechDataset, clips: SpeechDataConfig) -> None:
    index = len(train) - 1
    example = train.example(0, index, (index,))
    item = int(train._items_K[index])
    assert len(example.waveform) == 1600 < LENGTHS[item] and example.waveform.dtype == np.float32
    whole_T = normalize(decode_audio((Path(str(clips.path)) / f"{item:03}.wav").read_bytes(), RATE))
    starts = [start for start in range(LENGTHS[item] - 1600 + 1) if whole_T[start] == example.waveform[0]]
    assert any(np.array_equal(whole_T[start : start + 1600], example.waveform) for start in starts)
    others = [train.example(epoch, index, (index,)).waveform for epoch in range(1, 5)]
    assert any(not np.array_equal(other, example.waveform) for other in others)


@pytest.mark.parametrize("num_lengths", [1, 2, 5, 20])
def test_rounded_crops_have_few_evenly_spaced_lengths_and_lose_less_than_one_gap(
    train: SpeechDataset, clips: SpeechDataConfig, folder: Path, num_lengths: int
) -> None:
    rounded = open_split(replace(clips, num_lengths=num_lengths), folder)
    shortest, longest = rounded._min_samples, 1600
    gap = (longest - shortest) / max(1, num_lengths - 1)
    allowed = {shortest + int(number * (longest - shortest) // max(1, num_lengths - 1)) for number in range(num_lengths)}
    assert len(allowed) == num_lengths and (num_lengths == 1 or max(allowed) == longest)
    found = set()
    for index in range(len(train)):
        example, exact = rounded.example(0, index, (index,)), train.example(0, index, (index,))
        length = len(example.waveform)
        found.add(length)
        assert len(example.mask) == FRONTEND.num_frames(length)
        assert 0 <= len(exact.waveform) - length < gap + 1 or num_lengths == 1
    assert found <= allowed and (num_lengths > 5 or found == allowed), "20 lengths of 37 recordings: some have none"


def test_an_example_is_a_function_of_seed_split_epoch_and_index(train: SpeechDataset, clips: SpeechDataConfig, folder: Path) -> None:
    group = (4, 5, 6, 7)
    mask_S = train.example(0, 5, group).mask
    np.testing.assert_array_equal(mask_S, open_split(clips, folder).example(0, 5, group).mask)
    others = [train.example(1, 5, group), train.example(0, 6, group), open_split(clips, folder, seed=2).example(0, 5, group)]
    assert all((mask_S != other.mask).any() for other in others)
    valid = open_split(clips, folder, split="valid")
    assert valid.fingerprint == train.fingerprint and len(valid) == 4 and len(train) == 37


@pytest.mark.parametrize(("seed", "split", "epoch"), [(1, "train", 2), (5, "train", 0), (0, "valid", 0), (1, "valid", 3)])
def test_crop_and_mask_are_drawn_separately_by_seed_split_epoch_and_recording(
    clips: SpeechDataConfig, folder: Path, seed: int, split: str, epoch: int
) -> None:
    """The test computes them again. The results are equal bit for bit."""
    prepared, group = open_prepared(folder), (3, 1, 2)
    items = prepared.splits[split]
    num_samples = int(min(1600, *prepared.lengths_N[items[list(group)]]))
    masks, rngs = {}, {}
    for member in group:
        seeds = [np.random.SeedSequence((seed, ["train", "valid"].index(split), epoch, member), spawn_key=(stream,)) for stream in (0, 1)]
        rngs[member] = [np.random.Generator(np.random.Philox(each)) for each in seeds]
        masks[member] = span_mask(FRONTEND.num_frames(num_samples), MASK, rngs[member][0])
    num_masked = min(int(mask_S.sum()) for mask_S in masks.values())
    for member, (mask_rng, crop_rng) in rngs.items():
        example = open_split(clips, folder, split=split, seed=seed).example(epoch, member, group)
        whole_T = normalize(decode_audio(prepared.media.read(int(items[member])), RATE))
        start = int(crop_rng.integers(len(whole_T) - num_samples + 1))
        np.testing.assert_array_equal(example.waveform, whole_T[start : start + num_samples])
        np.testing.assert_array_equal(example.mask, unmask_to(masks[member], num_masked, mask_rng))


def test_recordings_are_scanned_and_decoded_at_the_recipes_rate_and_prepared_for_this_rate_only(
    clips: SpeechDataConfig, folder: Path, tmp_path: Path
) -> None:
    slow = replace(clips, sample_rate=8000, min_seconds=200 / 8000)
    halves = prepare_speech(slow, FRONTEND, tmp_path / "run", num_processes=1)
    prepared = open_prepared(halves)
    assert prepared.lengths_N.tolist() == [-(-length // 2) for length in LENGTHS]
    dataset = SpeechDataset(halves, "train", frontend=FRONTEND, mask=MASK, data=slow, seed=1)
    example = dataset.example(0, len(dataset) - 1, (len(dataset) - 1,))
    assert len(example.waveform) == 800, "max_seconds at this rate"
    whole_T = normalize(decode_audio(prepared.media.read(int(prepared.splits["train"][-1])), 8000))
    assert any(np.array_equal(whole_T[start : start + 800], example.waveform) for start in range(len(whole_T) - 799))
    with pytest.raises(ConfigError, match=r"prepared with data\.sample_rate 16000, the recipe has 8000"):
        prepare_speech(replace(slow, path=str(folder), min_seconds=clips.min_seconds), FRONTEND, tmp_path / "other")


def test_an_epoch_is_a_permutation_in_groups_of_like_lengths(train: SpeechDataset) -> None:
    order = train.order(np.random.default_rng(0))
    assert len(order) == 36 and len(set(order.tolist())) == 36 and set(order.tolist()) < set(range(37))
    again, other = (train.order(np.random.default_rng(seed)) for seed in (0, 1))
    assert np.array_equal(order, again) and not np.array_equal(order, other)
    left_out = {(set(range(37)) - set(train.order(np.random.default_rng(seed)).tolist())).pop() for seed in range(20)}
    assert len(left_out) > 5


def test_groups_stay_within_their_bucket_of_lengths(clips: SpeechDataConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.data.speech.GROUPS_PER_BUCKET", 2)
    groups = open_split(clips, folder).order(np.random.default_rng(0)).reshape(-1, 4)
    assert all(np.ptp(group) <= 2 * 4 for group in groups)  # 8 in a bucket, and the recording that is left out
    assert np.diff(groups.min(axis=1)).min() < 0  # the order of the groups is random


def test_with_fewer_recordings_than_a_group_an_epoch_is_empty(clips: SpeechDataConfig, folder: Path) -> None:
    assert len(open_split(replace(clips, group_size=64), folder).order(np.random.default_rng(0))) == 0


def test_both_inputs_of_a_batch_are_one_tensor_and_its_numbers_agree(train: SpeechDataset) -> None:
    group = (0, 1, 2, 3)
    batch = train.collate([train.example(0, index, group) for index in group])
    assert batch.inputs is batch.clean_inputs and batch.inputs.dtype == torch.float32
    num_frames = FRONTEND.num_frames(batch.inputs.shape[1])
    assert batch.masks.mask_BS.shape == (4, num_frames) and batch.masks.mask_BS.dtype == torch.bool
    assert batch.padding_mask_BS is None and batch.clean_padding_mask_BS is None and batch.num_tokens == 4 * num_frames
    assert torch.equal(batch.masks.masked_index_M, batch.masks.mask_BS.flatten().nonzero().squeeze(1))
    assert len(set(batch.masks.mask_BS.sum(dim=1).tolist())) == 1


def test_rows_of_unequal_length_are_padded_on_the_right(train: SpeechDataset) -> None:
    examples = [SpeechExample(np.ones(length, dtype=np.float32), np.ones(FRONTEND.num_frames(length), dtype=bool)) for length in (45, 99)]
    batch = train.collate(examples)
    frames = [FRONTEND.num_frames(45), FRONTEND.num_frames(99)]
    assert batch.inputs[0].tolist() == [1.0] * 45 + [0.0] * 54
    assert batch.padding_mask_BS is batch.clean_padding_mask_BS and batch.padding_mask_BS is not None
    assert batch.padding_mask_BS.tolist() == [[False] * frames[0] + [True] * (frames[1] - frames[0]), [False] * frames[1]]
    assert batch.num_tokens == batch.masks.num_masked == sum(frames)
    assert not (batch.masks.mask_BS & batch.padding_mask_BS).any()


def test_masks_that_could_cover_the_shortest_recording_are_refused_with_a_remedy(clips: SpeechDataConfig) -> None:
    short = replace(clips, min_seconds=0.003)  # 48 samples, 3 frames
    with pytest.raises(
        ConfigError, match=r"gives 3 frames, .* mask\.length 5 at mask\.prob 0\.65 may cover whole; --set data\.min_seconds=0\.01"
    ):
        check_mask(short, FRONTEND, MASK)
    check_mask(replace(clips, min_seconds=0.01), FRONTEND, MASK)
    with pytest.raises(ConfigError, match=r"may cover whole; --set mask\.prob lower"):
        check_mask(clips, FRONTEND, SpanMaskConfig(prob=1.0, length=1))


def test_a_data_set_is_not_opened_with_a_mask_that_could_cover_a_recording(clips: SpeechDataConfig, folder: Path) -> None:
    with pytest.raises(ConfigError, match="may cover whole"):
        SpeechDataset(folder, "train", frontend=FRONTEND, mask=SpanMaskConfig(prob=1.0, length=1), data=clips, seed=1)


@settings(max_examples=200, deadline=None)
@given(
    num_samples=st.integers(20, 900),
    longer=st.integers(0, 200),
    prob=st.floats(0.01, 1.0),
    length=st.integers(1, 12),
    min_masks=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_a_mask_that_was_not_refused_never_covers_all_frames(
    num_samples: int, longer: int, prob: float, length: int, min_masks: int, seed: int
) -> None:
    mask = SpanMaskConfig(prob=prob, length=length, min_masks=min_masks)
    try:
        check_mask(SpeechDataConfig(min_seconds=num_samples / RATE), FRONTEND, mask)
    except ConfigError:
        return
    mask_S = span_mask(FRONTEND.num_frames(num_samples + longer), mask, np.random.default_rng(seed))
    assert not mask_S[-1]


def test_a_pickled_data_set_has_few_bytes(train: SpeechDataset) -> None:
    train.example(0, 0, (0,))
    pickled = pickle.dumps(train)
    assert len(pickled) < 4000
    np.testing.assert_array_equal(pickle.loads(pickled).example(0, 0, (0,)).waveform, train.example(0, 0, (0,)).waveform)


def test_the_shipped_sample_makes_batches(tmp_path: Path) -> None:
    data, frontend = SpeechDataConfig(), SpeechFrontendConfig()
    folder = prepare_speech(data, frontend, tmp_path / "run", num_processes=1)
    train = SpeechDataset(folder, "train", frontend=frontend, mask=SpanMaskConfig(), data=data, seed=1)
    assert open_prepared(folder).counts == {"items": 221, "bad": 0, "short": 0, "train": 219, "valid": 2}
    group = tuple(train.order(np.random.default_rng(0))[:8].tolist())
    batch = train.collate([train.example(0, index, group) for index in group])
    assert batch.num_tokens == batch.masks.mask_BS.numel() and 0.35 < batch.masks.mask_BS.float().mean() < 0.6


def test_of_a_long_recording_only_the_crop_is_read_and_normalised(
    clips: SpeechDataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recordings of 500, 3000 and 6000 samples; crops have at most 1600, and recordings above 3200 are long."""
    folder = write_recordings(tmp_path / "raw", [500, 3000, 6000, 3000])
    data = replace(clips, path=str(folder), group_size=1, heldout_fraction=0.0, whole_seconds=0.2)
    read: list[int] = []
    dataset = open_split(data, tmp_path / "prepared")
    monkeypatch.setattr(speech, "read_audio", lambda media, item, rate: read.append(item) or read_audio(media, item, rate))
    examples = [dataset.example(2, index, (index,)).waveform for index in range(4)]
    assert sorted(read) == [0, 1, 3] and [len(waveform_T) for waveform_T in examples] == [500, 1600, 1600, 1600]
    whole_T = read_audio(dataset._prepared.media, 2, RATE)
    windows = np.lib.stride_tricks.sliding_window_view(whole_T, 1600)
    start = int(np.random.Generator(np.random.Philox(np.random.SeedSequence((1, 0, 2, 3), spawn_key=(1,)))).integers(6000 - 1600 + 1))
    np.testing.assert_array_equal(examples[3], normalize(windows[start]))
    everything = open_split(replace(data, whole_seconds=0.0), tmp_path / "prepared")
    np.testing.assert_array_equal(everything.example(2, 3, (3,)).waveform, normalize(whole_T)[start : start + 1600])
