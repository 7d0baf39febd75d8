"""Targets of the samples of a micro-batch."""

import numpy as np
import torch

from model.batch import Batch, Masks
from recipes.data.batch_targets import collate_targets, uncounted


def batch_of(size: int) -> Batch:
    ids_BS = torch.zeros(size, 3, dtype=torch.int64)
    return Batch(ids_BS, ids_BS, Masks.of(torch.zeros(size, 3, dtype=torch.bool)), None, None, 3 * size)


def test_classes_and_numbers_are_those_of_the_indices() -> None:
    found = collate_targets(batch_of(2), {"target": np.array([5, 6, 7])}, [2, 0]).targets
    assert found is not None and found.values.tolist() == [7, 5] and found.index_B.tolist() == [2, 0] and found.lengths_B is None
    numbers = collate_targets(batch_of(1), {"target": np.array([0.5, 1.5], dtype=np.float32)}, [1]).targets
    assert numbers is not None and numbers.values.dtype == torch.float32 and numbers.values.tolist() == [1.5]


def test_a_split_without_labels_has_targets_minus_one_and_counted_samples() -> None:
    found = collate_targets(batch_of(2), {}, [0, 4]).targets
    assert found is not None and found.values.tolist() == [-1, -1] and found.is_counted().all()


def test_transcripts_are_padded_to_the_longest_and_have_lengths() -> None:
    arrays = {"letters": np.array([5, 6, 7, 8], dtype=np.int32), "letter_ends": np.array([1, 1, 4])}
    found = collate_targets(batch_of(3), arrays, [2, 1, 0]).targets
    assert found is not None and found.lengths_B is not None
    assert found.values.tolist() == [[6, 7, 8], [0, 0, 0], [5, 0, 0]] and found.lengths_B.tolist() == [3, 0, 1]


def test_fillers_are_not_counted() -> None:
    batch = uncounted(collate_targets(batch_of(2), {"target": np.array([1, 2])}, [1, 1]), [False, True])
    assert batch.targets is not None and batch.targets.is_counted().tolist() == [True, False]
