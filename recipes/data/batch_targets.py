"""Adds the targets of a prepared split to a micro-batch.

Shapes: B batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from model.batch import Batch, Targets


def collate_targets(batch: Batch, arrays: Mapping[str, np.ndarray], indices: Sequence[int]) -> Batch:
    """Return the batch with the targets of the samples `indices`. `arrays`: those of the split (labelled_prepare.target_arrays). A split
    without labels gives targets -1. Transcripts are padded with 0."""
    index_B = torch.tensor(indices, dtype=torch.int64)
    if "letters" in arrays:
        ends_N, letters = arrays["letter_ends"], arrays["letters"]
        rows = [torch.from_numpy(letters[ends_N[i - 1] if i else 0 : ends_N[i]].astype(np.int64)) for i in indices]
        lengths_B = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        values = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return replace(batch, targets=Targets(values, index_B, lengths_B))
    target_N = arrays.get("target")
    values = torch.full((len(indices),), -1) if target_N is None else torch.from_numpy(target_N[list(indices)])
    return replace(batch, targets=Targets(values, index_B))


def uncounted(batch: Batch, is_filler: Sequence[bool]) -> Batch:
    """Return the batch with some samples marked as fillers, which neither loss nor metrics count."""
    assert batch.targets is not None
    index_B = batch.targets.index_B.masked_fill(torch.tensor(list(is_filler)), -1)
    return replace(batch, targets=replace(batch.targets, index_B=index_B))
