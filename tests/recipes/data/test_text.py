"""The text data set: samples as they were packed, masks by (seed, epoch, index), and padding at any position."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import TokenMaskConfig
from model.frontends.config import TextFrontendConfig
from model.masking import token_mask
from recipes.data.packing import Split
from recipes.data.prepare import prepare_text
from recipes.data.shards import map_array
from recipes.data.text import TextDataset, TextExample
from recipes.data_config import TextDataConfig
from tests.recipes.data.numbers_data import epoch_of

MASK = TokenMaskConfig(prob=0.3, length=2)


@pytest.fixture(scope="module")
def stream(prepared: Path) -> TextDataset:
    """break_mode none."""
    return TextDataset(prepared, "train", mask=MASK, seed=1)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory, data: TextDataConfig, frontend: TextFrontendConfig) -> TextDataset:
    """break_mode complete_doc."""
    out = tmp_path_factory.mktemp("complete_doc") / "prepared"
    return TextDataset(prepare_text(replace(data, break_mode="complete_doc"), frontend, out, num_processes=1), "train", mask=MASK, seed=1)


def test_an_example_is_the_start_token_and_the_samples_text(stream: TextDataset, prepared: Path) -> None:
    start, length = np.load(prepared / "train.npy")[3].tolist()
    clean_T = stream.example(0, 3).clean
    assert clean_T[0] == 0 and len(clean_T) == length + 1 == stream.sequence_length
    np.testing.assert_array_equal(clean_T[1:], map_array(prepared / "tokens.bin", np.uint16)[start : start + length])


def test_an_example_is_a_function_of_seed_epoch_and_index(stream: TextDataset, prepared: Path) -> None:
    example = stream.example(2, 5)
    stream.example(7, 1)  # calls in between do not matter
    again = TextDataset(prepared, "train", mask=MASK, seed=1).example(2, 5)
    np.testing.assert_array_equal(example.inputs, again.inputs)
    np.testing.assert_array_equal(example.mask, again.mask)
    others = [stream.example(3, 5), stream.example(2, 6), TextDataset(prepared, "train", mask=MASK, seed=2).example(2, 5)]
    assert all((example.mask != other.mask).any() for other in others)
    np.testing.assert_array_equal(example.clean, others[0].clean)


@pytest.mark.parametrize(("seed", "split", "epoch"), [(1, "train", 2), (5, "train", 0), (0, "valid", 0), (1, "valid", 3)])
def test_a_mask_is_drawn_by_seed_split_epoch_and_index(prepared: Path, seed: int, split: Split, epoch: int) -> None:
    """The test computes it again. The results are equal bit for bit."""
    dataset = TextDataset(prepared, split, mask=MASK, seed=seed)
    starts_N2 = np.load(prepared / f"{split}.npy")
    for index in range(2):
        entropy = (seed, ["train", "valid"].index(split), epoch, index)
        example, rng = dataset.example(epoch, index), np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
        start, length = starts_N2[index].tolist()
        np.testing.assert_array_equal(example.clean, [0, *map_array(prepared / "tokens.bin", np.uint16)[start : start + length]])
        inputs_T, mask_T = token_mask(example.clean, MASK, rng, vocab_size=64)
        np.testing.assert_array_equal(example.inputs, inputs_T)
        np.testing.assert_array_equal(example.mask, mask_T)


def test_the_splits_draw_different_masks_and_share_no_text(stream: TextDataset, prepared: Path) -> None:
    valid = TextDataset(prepared, "valid", mask=MASK, seed=1)
    assert any((stream.example(0, index).mask != valid.example(0, index).mask).any() for index in range(2))
    assert valid.fingerprint == stream.fingerprint
    ranges = [{*map(tuple, np.load(prepared / f"{split}.npy").tolist())} for split in ("train", "valid")]
    assert not ranges[0] & ranges[1]


def test_an_epoch_is_every_sample_shuffled(stream: TextDataset) -> None:
    epochs = [epoch_of(stream, epoch) for epoch in (0, 0, 1)]
    assert sorted(epochs[0]) == list(range(len(stream))) != epochs[0] == epochs[1] != epochs[2]


def test_the_group_does_not_matter_and_nothing_is_bad(stream: TextDataset) -> None:
    alone, among = stream.example(0, 3), stream.example(0, 3, (1, 3, 5))
    np.testing.assert_array_equal(alone.inputs, among.inputs)
    assert stream.take_bad() == []


def test_a_copy_sent_to_another_process_gives_the_same_samples(stream: TextDataset) -> None:
    copy = pickle.loads(pickle.dumps(stream))
    np.testing.assert_array_equal(copy.example(2, 5).inputs, stream.example(2, 5).inputs)
    assert len(copy) == len(stream) and copy.fingerprint == stream.fingerprint


def test_a_stream_batch_has_no_padding_and_its_numbers_agree(stream: TextDataset) -> None:
    batch = stream.collate([stream.example(0, index) for index in range(4)])
    assert batch.inputs.shape == batch.clean_inputs.shape == batch.masks.mask_BS.shape == (4, 32)
    assert batch.inputs.dtype == batch.clean_inputs.dtype == batch.masks.masked_index_M.dtype == torch.int64
    assert batch.padding_mask_BS is None and batch.clean_padding_mask_BS is None
    assert batch.num_tokens == 4 * 32
    assert torch.equal(batch.masks.masked_index_M, batch.masks.mask_BS.flatten().nonzero().squeeze(1))
    assert torch.equal(batch.masks.mask_BS, batch.inputs == stream.vocab_size - 1)
    assert torch.equal(batch.inputs[~batch.masks.mask_BS], batch.clean_inputs[~batch.masks.mask_BS])
    assert not (batch.clean_inputs == stream.vocab_size - 1).any()


def test_a_document_batch_is_padded_on_the_right(documents: TextDataset) -> None:
    examples = [documents.example(0, index) for index in range(8)]
    batch = documents.collate(examples)
    lengths = [len(example.clean) for example in examples]
    assert batch.padding_mask_BS is not None and batch.padding_mask_BS is batch.clean_padding_mask_BS and min(lengths) < 32
    assert batch.num_tokens == sum(lengths)
    for row, length in enumerate(lengths):
        assert batch.padding_mask_BS[row].tolist() == [False] * length + [True] * (32 - length)
    for ids in (batch.inputs, batch.clean_inputs):
        assert torch.equal(ids == 1, batch.padding_mask_BS)
    assert not (batch.masks.mask_BS & batch.padding_mask_BS).any()


def test_a_batch_of_documents_without_padding_has_a_padding_mask_too(documents: TextDataset) -> None:
    full = TextExample(np.full(32, 9), np.full(32, 9), np.zeros(32, dtype=bool))
    padding_BS = documents.collate([full]).padding_mask_BS
    assert padding_BS is not None and not padding_BS.any()  # the same kernels however the global batch is divided


@pytest.mark.parametrize("name", ["stream", "documents"])
def test_padding_inside_a_row_stays_padding(name: str, request: pytest.FixtureRequest) -> None:
    dataset: TextDataset = request.getfixturevalue(name)
    clean_T = np.array([0, 9, 1, 1, 8, 2])
    inputs_T = np.array([0, 63, 63, 1, 63, 2])  # a mask at a padded position is removed
    batch = dataset.collate([TextExample(clean_T, inputs_T, inputs_T == 63)])
    assert batch.padding_mask_BS is not None
    assert batch.padding_mask_BS[0].tolist() == [False, False, True, True, False, False, *[True] * 26]
    assert batch.inputs[0, :6].tolist() == [0, 63, 1, 1, 63, 2]
    assert batch.masks.masked_index_M.tolist() == [1, 4]
    assert batch.num_tokens == 4
