"""A data set of numbers and loaders of it, for the tests of the loader and of its worker processes."""

from typing import Any

import numpy as np
import torch

from model.batch import Batch, Masks
from recipes.data.loader import Dataset, LoadedBatch, UpdateLoader, rank_share
from recipes.data.media import BadItem
from recipes.data.order import Position, UpdateOrder
from recipes.errors import ConfigError

Row = tuple[int, ...]


class Numbers:
    """Sample i of epoch e in group g is the row (e, i, smallest of g, sum of g). Pickled into worker processes without change."""

    fingerprint = "numbers"

    def __init__(self, size: int, *, bad: int | None = None, broken: int | None = None) -> None:
        self.size, self.bad, self.broken = size, bad, broken
        self.found_bad: list[BadItem] = []

    def __len__(self) -> int:
        return self.size

    def order(self, rng: np.random.Generator) -> None:
        return None

    def example(self, epoch: int, index: int, group: Row) -> Row:
        assert 0 <= index < self.size and index in group
        if index == self.broken:
            raise ConfigError(f"sample {index} is damaged; fix it")
        if index == self.bad:
            self.found_bad.append(BadItem(f"item {index}", "not audio"))
        return epoch, index, min(group), sum(group)

    def collate(self, examples: list[Row]) -> Batch:
        rows = torch.tensor(examples)
        mask_BS = torch.zeros_like(rows, dtype=torch.bool)
        return Batch(rows, rows, Masks.of(mask_BS), None, None, rows.numel())

    def take_bad(self) -> list[BadItem]:
        found_bad, self.found_bad = self.found_bad, []
        return found_bad


def rows_of(loaded: list[LoadedBatch]) -> list[Row]:
    return [tuple(row) for item in loaded for row in item.batch.inputs.tolist()]


def row_of(position: Position) -> Row:
    return position.epoch, position.index, min(position.group), sum(position.group)


def epoch_of(dataset: Dataset, epoch: int = 0) -> list[int]:
    """Return the indices of an epoch's samples, in order."""
    order = UpdateOrder(dataset, seed=1, global_batch_size=1, group_size=1)
    return [order.positions(update)[0].index for update in range(epoch * len(dataset), (epoch + 1) * len(dataset))]


def order_of(dataset: Numbers, *, seed: int = 1, batch: int = 8, group: int = 1, **options: Any) -> UpdateOrder:
    return UpdateOrder(dataset, seed=seed, global_batch_size=batch, group_size=group, **options)


def open_loader(
    dataset: Numbers, *, seed: int = 1, batch: int = 8, group: int = 1, micro: int = 2, rank: Row = (0, 1), **options: Any
) -> Any:
    """Return a loader of the data set for the rank (dp_rank, dp_size). `batch`, `group`, `micro`: samples of an update, a group and a
    micro-batch. `options`: further arguments of UpdateLoader."""
    order = order_of(dataset, seed=seed, batch=batch, group=group)
    return UpdateLoader(dataset, order, share=rank_share(batch, *rank), micro_batch_size=micro, **options)
