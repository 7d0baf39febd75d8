"""Batches with targets, for tests of supervised losses."""

import torch
from torch import Tensor

from model.batch import Batch, Masks, Targets


def batch_of(values: Tensor, index_B: Tensor | None = None) -> Batch:
    """Return a batch whose inputs are zeros, with these targets. `index_B`: None counts all samples."""
    ids_BS = torch.zeros(len(values), 2, dtype=torch.int64)
    targets = Targets(values, torch.arange(len(values)) if index_B is None else index_B)
    return Batch(ids_BS, ids_BS, Masks.of(torch.zeros_like(ids_BS, dtype=torch.bool)), None, None, 2 * len(values), targets)
