"""The batch that goes from data to the model."""

from dataclasses import FrozenInstanceError, replace
from operator import attrgetter

import pytest
import torch
from torch import Tensor

from model.batch import Batch, Masks, Segments, Targets
from tests.model.reference import bools, make_batch

CLEAN_BS = torch.arange(10).view(2, 5) % 6 + 4


def test_num_masked_counts_the_loss_positions() -> None:
    assert make_batch(CLEAN_BS, bools("01101", "00001")).masks.num_masked == 4
    assert make_batch(CLEAN_BS, bools("00000", "00000")).masks.num_masked == 0


def test_masks_contain_their_true_positions_in_row_major_order() -> None:
    mask_BS = bools("01101", "00001")
    masks = Masks.of(mask_BS)
    assert masks.mask_BS is mask_BS and masks.masked_index_M.dtype == torch.int64
    assert masks.masked_index_M.tolist() == [1, 2, 4, 9]
    empty = Masks.of(bools("00", "00"))
    assert (empty.masked_index_M.shape, empty.masked_index_M.dtype, empty.num_masked) == ((0,), torch.int64, 0)


def test_to_moves_every_tensor_and_nothing_else() -> None:
    batch = make_batch(CLEAN_BS, bools("01101", "00001"), bools("00000", "10000"))
    moved = batch.to(torch.device("meta"))
    names = ("inputs", "clean_inputs", "masks.mask_BS", "masks.masked_index_M", "padding_mask_BS", "clean_padding_mask_BS")
    for name in names:
        before, after = attrgetter(name)(batch), attrgetter(name)(moved)
        assert (before.device.type, after.device.type) == ("cpu", "meta"), name
        assert (after.shape, after.dtype) == (before.shape, before.dtype), name
    assert (moved.num_tokens, moved.masks.num_masked) == (9, 4)


def test_to_moves_targets_segments_and_masks_of_channels() -> None:
    mask_BS, channel_mask_BD = bools("010", "001"), bools("0110", "0000")
    targets = Targets(torch.tensor([[1, 2], [3, 0]]), torch.tensor([4, -1]), torch.tensor([2, 1]))
    masks = replace(Masks.of(mask_BS), channel_mask_BD=channel_mask_BD)
    segments = Segments(torch.zeros(2, 9, dtype=torch.int32), torch.zeros(2, 9, dtype=torch.int64))
    batch = Batch(torch.zeros(2, 9), torch.zeros(2, 9), masks, None, None, 6, targets, segments=segments)
    moved = batch.to(torch.device("meta"))
    names = (
        "targets.values",
        "targets.index_B",
        "targets.lengths_B",
        "masks.channel_mask_BD",
        "segments.segment_BS",
        "segments.position_BS",
    )
    for name in names:
        before, after = attrgetter(name)(batch), attrgetter(name)(moved)
        assert (after.device.type, after.shape, after.dtype) == ("meta", before.shape, before.dtype), name
    assert make_batch(CLEAN_BS, bools("01101", "00001")).to(torch.device("meta")).targets is None


def test_samples_that_only_fill_up_the_batch_are_not_counted() -> None:
    targets = Targets(torch.tensor([1, 0, 0]), torch.tensor([7, 0, -1]))
    assert targets.is_counted().tolist() == [True, True, False] and targets.lengths_B is None


def test_to_keeps_none_if_nothing_is_padded() -> None:
    moved = make_batch(CLEAN_BS, bools("01101", "00001")).to(torch.device("meta"))
    assert moved.padding_mask_BS is None and moved.clean_padding_mask_BS is None


def test_to_the_same_device_keeps_the_values() -> None:
    batch = make_batch(CLEAN_BS, bools("01101", "00001"))
    moved = batch.to(torch.device("cpu"))
    torch.testing.assert_close(moved.inputs, batch.inputs, atol=0, rtol=0)
    torch.testing.assert_close(moved.masks.masked_index_M, batch.masks.masked_index_M, atol=0, rtol=0)


def test_a_tensor_in_two_fields_is_moved_once_and_stays_one_tensor() -> None:
    """Speech and vision: student and teacher read the same waveform or pixels."""
    wave_BT, mask_BS = torch.zeros(2, 9), bools("010", "001")
    moved = Batch(wave_BT, wave_BT, Masks.of(mask_BS), None, None, 6).to(torch.device("meta"))
    assert moved.inputs.device.type == "meta" and moved.inputs is moved.clean_inputs


def test_different_tensors_of_equal_values_stay_different() -> None:
    moved = make_batch(CLEAN_BS, bools("00000", "00000")).to(torch.device("meta"))
    assert moved.inputs is not moved.clean_inputs and moved.masks.mask_BS.dtype == torch.bool


def test_the_tensors_of_a_batch_are_listed_once_each() -> None:
    wave_BT, targets = torch.zeros(2, 9), Targets(torch.tensor([1, 0]), torch.tensor([7, 0]))
    batch = Batch(wave_BT, wave_BT, Masks.of(bools("010", "001")), None, None, 6, targets)
    expected = [wave_BT, batch.masks.mask_BS, batch.masks.masked_index_M, targets.values, targets.index_B]
    assert [id(tensor) for tensor in batch.tensors()] == [id(tensor) for tensor in expected]


def test_a_pinned_batch_has_every_tensor_pinned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: seen.append(tensor) or tensor.clone())
    wave_BT = torch.arange(18.0).view(2, 9)
    batch = Batch(wave_BT, wave_BT, Masks.of(bools("010", "001")), None, None, 6)
    pinned = batch.pinned()
    assert len(seen) == 3 and pinned.inputs is pinned.clean_inputs is not wave_BT and torch.equal(pinned.inputs, wave_BT)


def test_a_batch_cannot_be_changed_in_place() -> None:
    batch: Batch = make_batch(CLEAN_BS, bools("01101", "00001"))
    with pytest.raises(FrozenInstanceError):
        batch.num_tokens = 3  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        batch.masks.mask_BS = batch.masks.mask_BS  # type: ignore[misc]
