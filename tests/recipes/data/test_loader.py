"""The loader: which samples make an update, how ranks and micro-batches share them, and resuming without replay."""

import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batch import Batch
from recipes.data.loader import EVAL_EPOCH, UpdateLoader, eval_batches
from recipes.errors import ConfigError


class Numbers:
    """Sample i of epoch e is the row (e, i)."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def example(self, epoch: int, index: int) -> tuple[int, int]:
        assert 0 <= index < self.size
        return epoch, index

    def collate(self, examples: list[tuple[int, int]]) -> Batch:
        rows = torch.tensor(examples)
        mask_BS = torch.zeros_like(rows, dtype=torch.bool)
        return Batch(rows, rows, mask_BS, mask_BS.flatten().nonzero().squeeze(1), None, None, rows.numel())


def rows_of(batches: list[Batch]) -> list[tuple[int, int]]:
    return [(epoch, index) for batch in batches for epoch, index in batch.inputs.tolist()]


@pytest.fixture
def build() -> "Callable[..., UpdateLoader]":
    loaders: list[UpdateLoader] = []

    def build_one(size: int = 50, **options: int) -> UpdateLoader:
        settings = {"seed": 1, "global_batch_size": 8, "micro_batch_size": 2, "dp_rank": 0, "dp_size": 1} | options
        loaders.append(UpdateLoader(Numbers(size), **settings))
        return loaders[-1]

    yield build_one  # type: ignore[misc]
    for loader in loaders:
        loader.close()


def test_an_epoch_visits_every_sample_at_most_once_and_drops_the_rest(build: Callable[..., UpdateLoader]) -> None:
    loader = build(50)
    assert loader.updates_per_epoch == 6
    for epoch in range(2):
        visited = [position for update in range(6 * epoch, 6 * epoch + 6) for position in loader.positions(update)]
        assert {epoch for epoch, _ in visited} == {epoch}
        assert len(visited) == len(set(visited)) == 48
    assert {loader.positions(update)[0][0] for update in (5, 6, 12)} == {0, 1, 2}


def test_the_order_depends_on_seed_and_epoch_only(build: Callable[..., UpdateLoader]) -> None:
    loader = build()
    assert loader.positions(3) == build().positions(3)
    assert loader.positions(3) != build(seed=2).positions(3)
    assert [index for _, index in loader.positions(0)] != [index for _, index in loader.positions(6)]


def test_any_update_can_be_asked_for_first(build: Callable[..., UpdateLoader]) -> None:
    replayed = build()
    expected = [rows_of(replayed.batches(update)) for update in range(20)]
    for update in (17, 0, 6, 5, 19):
        assert rows_of(build().batches(update)) == expected[update]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.sampled_from([1, 2, 3, 4]), st.integers(1, 3), st.integers(0, 30))
def test_the_ranks_share_the_global_batch_whatever_their_number(micro: int, dp_size: int, accumulation: int, update: int) -> None:
    size = micro * dp_size * accumulation
    loaders = [
        UpdateLoader(Numbers(100), seed=3, global_batch_size=size, micro_batch_size=micro, dp_rank=rank, dp_size=dp_size)
        for rank in range(dp_size)
    ]
    batches = [loader.batches(update) for loader in loaders]
    assert {len(own) for own in batches} == {accumulation}
    assert {len(batch.inputs) for own in batches for batch in own} == {micro}
    rows = [row for own in batches for row in rows_of(own)]
    assert rows == loaders[0].positions(update)
    assert len(set(rows)) == size
    for loader in loaders:
        loader.close()


def test_the_next_update_is_built_in_the_background(build: Callable[..., UpdateLoader]) -> None:
    built: list[tuple[int, str]] = []

    class Watched(Numbers):
        def example(self, epoch: int, index: int) -> tuple[int, int]:
            built.append((index, threading.current_thread().name))
            return super().example(epoch, index)

    loader = UpdateLoader(Watched(50), seed=1, global_batch_size=8, micro_batch_size=2, dp_rank=0, dp_size=1)
    loader.batches(0)
    assert loader.wait_seconds > 0
    loader.close()  # waits for the one under way
    assert {name.split("_")[0] for _, name in built} == {"data"}
    assert len(built) in (8, 16)


def test_an_error_in_the_background_reaches_the_caller() -> None:
    class Broken(Numbers):
        def example(self, epoch: int, index: int) -> tuple[int, int]:
            raise ConfigError("sample 7 is damaged")

    loader = UpdateLoader(Broken(50), seed=1, global_batch_size=8, micro_batch_size=2, dp_rank=0, dp_size=1)
    with pytest.raises(ConfigError, match="sample 7 is damaged"):
        loader.batches(0)
    loader.close()


def test_fewer_samples_than_one_batch_is_refused_with_numbers(build: Callable[..., UpdateLoader]) -> None:
    with pytest.raises(ConfigError, match=r"29 samples, fewer than one batch of 32; .*--set run\.global_batch_size=24"):
        build(29, global_batch_size=32)
    assert build(32, global_batch_size=32).updates_per_epoch == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 5), st.integers(1, 4))
def test_every_rank_evaluates_the_same_number_of_equal_batches(size: int, max_samples: int, micro: int, dp_size: int) -> None:
    if min(size, max_samples) < dp_size:
        with pytest.raises(ConfigError, match="data-parallel ranks"):
            eval_batches(Numbers(size), max_samples=max_samples, micro_batch_size=micro, dp_rank=0, dp_size=dp_size)
        return
    shares = [
        list(eval_batches(Numbers(size), max_samples=max_samples, micro_batch_size=micro, dp_rank=r, dp_size=dp_size))
        for r in range(dp_size)
    ]
    assert len({tuple(len(batch.inputs) for batch in share) for share in shares}) == 1
    rows = [row for share in shares for row in rows_of(share)]
    assert len(rows) == len(set(rows)) == min(size, max_samples) // dp_size * dp_size
    alone = rows_of(list(eval_batches(Numbers(size), max_samples=max_samples, micro_batch_size=7, dp_rank=0, dp_size=1)))
    assert rows == alone[: len(rows)]
    assert {epoch for epoch, _ in rows} == {EVAL_EPOCH}


def test_held_out_samples_are_spread_over_the_data() -> None:
    rows = rows_of(list(eval_batches(Numbers(100), max_samples=4, micro_batch_size=4, dp_rank=0, dp_size=1)))
    assert [index for _, index in rows] == [0, 25, 50, 75]
    assert not list(eval_batches(Numbers(0), max_samples=4, micro_batch_size=4, dp_rank=0, dp_size=2))
