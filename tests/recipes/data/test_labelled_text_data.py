"""The data set of labelled texts: its samples are those of the prepared folder, in batches that are padded little."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.data.labelled_folder import load_info, load_split_of
from recipes.data.labelled_prepare import prepare_labelled
from recipes.data.labelled_text_data import LabelledTextDataset
from recipes.data.labelled_text_reader import LabelledTextReader
from tests.recipes.data.labelled_texts import recipe_of, write_texts


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    recipe = recipe_of(write_texts(folder / "data", {"train": 700, "valid": 9}, most=14))
    return prepare_labelled(recipe, folder / "prepared", lambda recipe: LabelledTextReader(recipe, None))


def test_a_sample_has_the_stored_tokens_and_target(prepared: Path) -> None:
    dataset, stored = LabelledTextDataset(prepared, "valid", batch_size=4), load_split_of(prepared, "valid")
    assert len(dataset) == 9 and dataset.fingerprint == load_info(prepared).fingerprint and dataset.take_bad() == []
    batch = dataset.collate([dataset.example(0, index) for index in (8, 0)])
    assert batch.targets is not None and batch.targets.values.tolist() == [2, 0] and batch.targets.index_B.tolist() == [8, 0]
    ends = stored.arrays["ends"]
    expected = [stored.arrays["tokens"][ends[7] : ends[8]], stored.arrays["tokens"][: ends[0]]]
    for ids_S, tokens in zip(batch.inputs, expected, strict=True):
        assert ids_S[: len(tokens)].tolist() == tokens.tolist() and (ids_S[len(tokens) :] == 1).all()
    assert batch.num_tokens == sum(map(len, expected)) and batch.masks.num_masked == 0


def test_a_batch_without_padding_has_a_padding_mask_too(prepared: Path) -> None:
    """So that one sample and a padded batch are computed by the same kernels."""
    dataset = LabelledTextDataset(prepared, "valid", batch_size=4)
    batch = dataset.collate([dataset.example(0, 3)])
    assert batch.padding_mask_BS is not None and not batch.padding_mask_BS.any() and torch.equal(batch.inputs, batch.clean_inputs)


def test_less_than_a_tenth_of_the_positions_of_an_epoch_is_padding(prepared: Path) -> None:
    dataset = LabelledTextDataset(prepared, "train", batch_size=16)
    order = dataset.order(np.random.default_rng(0))
    padded = total = 0
    for start in range(0, len(order) // 16 * 16, 8):
        batch = dataset.collate([dataset.example(0, index) for index in order[start : start + 8].tolist()])
        padded, total = padded + batch.inputs.numel() - batch.num_tokens, total + batch.inputs.numel()
    assert padded / total < 0.1
