"""Rows of several texts: their samples are those of padded rows, bit for bit, and the batch says where each begins."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import TokenMaskConfig
from model.frontends.config import TextFrontendConfig
from recipes.data.loader import UpdateLoader
from recipes.data.packed_text import PackedTextDataset, collate_rows
from recipes.data.prepare import prepare_text
from recipes.data.text import TextDataset, TextExample
from recipes.data_config import TextDataConfig
from tests.recipes.data.numbers_data import epoch_of

MASK = TokenMaskConfig(prob=0.3, length=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: TextDataConfig, frontend: TextFrontendConfig) -> Path:
    out = tmp_path_factory.mktemp("packed") / "prepared"
    return prepare_text(replace(data, break_mode="complete_doc"), frontend, out, num_processes=1)


@pytest.fixture(scope="module")
def samples(folder: Path) -> TextDataset:
    return TextDataset(folder, "train", mask=MASK, seed=1)


@pytest.fixture(scope="module")
def packed(samples: TextDataset) -> PackedTextDataset:
    return PackedTextDataset(samples)


def members(dataset: PackedTextDataset, epoch: int) -> list[list[int]]:
    return [dataset.members(epoch, index) for index in range(len(dataset))]


def test_an_epoch_has_every_sample_once_in_fewer_rows(samples: TextDataset, packed: PackedTextDataset) -> None:
    for epoch in range(3):
        rows = members(packed, epoch)
        assert sorted(member for row in rows for member in row) == list(range(len(samples)))
        assert max(samples.lengths[row].sum() for row in rows) <= 32
    assert len(packed) < 0.9 * len(samples)


def test_the_samples_of_a_row_depend_on_seed_and_epoch(folder: Path, packed: PackedTextDataset) -> None:
    again = PackedTextDataset(TextDataset(folder, "train", mask=MASK, seed=1))
    assert members(again, 2) == members(packed, 2) != members(packed, 1)
    assert members(PackedTextDataset(TextDataset(folder, "train", mask=MASK, seed=2)), 2) != members(packed, 2)
    assert [again.members(epoch, 3) for epoch in (1, 2, 1)] == [packed.members(epoch, 3) for epoch in (1, 2, 1)]


def test_a_sample_has_the_masks_that_it_has_in_a_row_of_its_own(samples: TextDataset, packed: PackedTextDataset) -> None:
    for member, example in zip(packed.members(2, 5), packed.example(2, 5), strict=True):
        alone = samples.example(2, member)
        for name in ("clean", "inputs", "mask"):
            np.testing.assert_array_equal(getattr(example, name), getattr(alone, name))


def test_a_batch_says_which_sample_and_place_each_position_has(packed: PackedTextDataset) -> None:
    rows = [packed.example(0, index) for index in range(6)]
    batch = packed.collate(rows)
    assert batch.segments is not None and batch.padding_mask_BS is not None
    assert batch.inputs.shape == batch.segments.segment_BS.shape == batch.segments.position_BS.shape == (6, 32)
    assert torch.equal(batch.segments.segment_BS == -1, batch.padding_mask_BS)
    assert batch.num_tokens == sum(len(example.clean) for row in rows for example in row)
    for number, row in enumerate(rows):
        for segment, example in enumerate(row):
            own_S = batch.segments.segment_BS[number] == segment
            assert batch.clean_inputs[number, own_S].tolist() == example.clean.tolist()
            assert batch.inputs[number, own_S].tolist() == example.inputs.tolist()
            assert batch.masks.mask_BS[number, own_S].tolist() == example.mask.tolist()
            assert batch.segments.position_BS[number, own_S].tolist() == list(range(len(example.clean)))
    assert (batch.clean_inputs[batch.segments.position_BS.eq(0) & ~batch.padding_mask_BS] == 0).all(), "each sample begins with <s>"


def test_padding_inside_a_sample_has_no_sample_and_no_place() -> None:
    first, second = np.array([0, 9, 1, 8, 2]), np.array([0, 7, 2])
    no_mask = [np.zeros(len(ids), dtype=bool) for ids in (first, second)]
    row = [TextExample(ids, ids, mask) for ids, mask in zip((first, second), no_mask, strict=True)]
    batch = collate_rows([row], 10)
    assert batch.segments is not None and batch.padding_mask_BS is not None
    assert batch.segments.segment_BS.tolist() == [[0, 0, -1, 0, 0, 1, 1, 1, -1, -1]]
    assert batch.segments.position_BS.tolist() == [[0, 1, 0, 2, 3, 0, 1, 2, 0, 0]]
    assert batch.padding_mask_BS.tolist() == [[False, False, True, *[False] * 5, True, True]]


def test_an_order_is_every_row_and_nothing_is_bad(samples: TextDataset, packed: PackedTextDataset) -> None:
    assert sorted(epoch_of(packed)) == list(range(len(packed)))
    assert packed.take_bad() == [] and packed.fingerprint == samples.fingerprint


def test_a_copy_sent_to_another_process_gives_the_same_rows(packed: PackedTextDataset) -> None:
    assert members(pickle.loads(pickle.dumps(packed)), 1) == members(packed, 1)


def test_rows_of_updates_do_not_depend_on_ranks_micro_batches_and_resuming(
    packed: PackedTextDataset, build: Callable[..., UpdateLoader]
) -> None:
    per_epoch = len(packed) // 8
    through = build(packed, micro=8)
    expected = [through.batches(update)[0].batch for update in range(per_epoch + 2)]  # ends in the second epoch
    for update in (1, per_epoch + 1):
        for rank in range(2):
            resumed = build(packed, micro=2, rank=(rank, 2), first_update=update)
            inputs = torch.cat([loaded.batch.inputs for loaded in resumed.batches(update)])
            assert torch.equal(inputs, expected[update].inputs[4 * rank : 4 * rank + 4])
    assert not torch.equal(expected[0].inputs, expected[1].inputs)
