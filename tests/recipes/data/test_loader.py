"""The loader: the samples of an update, their split over ranks and micro-batches, and resuming without replay."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batch import Batch, Targets
from recipes.data.loader import EVAL_EPOCH, UpdateLoader, check_enough, eval_batches, every_batch, micro_batches, rank_share
from recipes.errors import ConfigError
from tests.recipes.data.numbers_data import Numbers, Row, open_loader, order_of, row_of, rows_of


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_can_start_at_any_update(build: Callable[..., UpdateLoader], num_workers: int) -> None:
    replayed = build(group=4)
    expected = [rows_of(replayed.batches(update)) for update in range(20)]
    assert len({tuple(rows) for rows in expected}) == 20
    for update in (17, 0, 5) if num_workers else (17, 0, 6, 5, 19):
        resumed = build(group=4, num_workers=num_workers, first_update=update)
        assert [rows_of(resumed.batches(number)) for number in range(update, 20)][:3] == expected[update:][:3]
    assert rows_of(resumed.batches(2)) == expected[2], "a jump back"


def test_a_resumed_loader_reads_nothing_before_its_first_update() -> None:
    class Watched(Numbers):
        def example(self, epoch: int, index: int, group: Row) -> Row:
            read.append((epoch, index))
            return super().example(epoch, index, group)

    read: list[tuple[int, int]] = []
    loader = open_loader(Watched(50), first_update=9)
    rows = rows_of(loader.batches(9))
    loader.close()
    assert read[:8] == [row[:2] for row in rows] and len(read) in (8, 16)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2, 3, 4]), st.integers(1, 3), st.integers(0, 30))
def test_any_number_of_ranks_splits_the_same_global_batch(micro: int, parts: int, dp_size: int, accumulation: int, update: int) -> None:
    """Samples, groups and order are the same as with one rank. A micro-batch is within one group if its size divides that of the group."""
    group, batch = micro * parts, micro * parts * dp_size * accumulation
    loaders = [open_loader(Numbers(150), seed=3, batch=batch, group=group, micro=micro, rank=(rank, dp_size)) for rank in range(dp_size)]
    loaded = [loader.batches(update) for loader in loaders]
    for loader in loaders:
        loader.close()
    assert {len(own) for own in loaded} == {parts * accumulation}
    assert {len(item.batch.inputs) for own in loaded for item in own} == {micro}
    rows = [row for own in loaded for row in rows_of(own)]
    assert rows == [row_of(position) for position in order_of(Numbers(150), seed=3, batch=batch, group=group).positions(update)]
    assert len({row[:2] for row in rows}) == batch
    for item in (item for own in loaded for item in own):
        assert len({row[2:] for row in rows_of([item])}) == 1, "all rows of a micro-batch are of one group"


def test_the_slices_of_the_ranks_are_contiguous_and_complete() -> None:
    assert [rank_share(12, rank, 3) for rank in range(3)] == [slice(0, 4), slice(4, 8), slice(8, 12)]


def test_the_sequence_of_micro_batches_has_no_end_and_starts_at_any_update() -> None:
    order = order_of(Numbers(20), batch=4, group=2)
    endless = micro_batches(order, rank_share(4, 1, 2), 1, 7)
    taken = [next(endless) for _ in range(20)]
    assert [part[0] for part in taken] == [position for update in range(7, 17) for position in order.positions(update)[2:]]


def test_the_first_micro_batch_of_the_next_update_can_be_had_as_soon_as_it_is_built(build: Callable[..., UpdateLoader]) -> None:
    loader = build()
    assert loader.first_of(0) is None, "nothing is read before the first update"
    loader.batches(0)
    deadline = time.monotonic() + 20
    while (first := loader.first_of(1)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert loader.first_of(2) is None and loader.batches(1)[0].batch is first


def test_a_next_update_that_cannot_be_read_has_no_first_micro_batch(build: Callable[..., UpdateLoader]) -> None:
    class LaterBroken(Numbers):
        def example(self, epoch: int, index: int, group: Row) -> Row:
            if epoch:
                raise ConfigError("damaged; fix it")
            return super().example(epoch, index, group)

    loader = build(LaterBroken(8))
    loader.batches(0)
    with pytest.raises(ConfigError, match="damaged"):
        loader.batches(1)
    assert loader.first_of(1) is None and loader.first_of(2) is None


def test_on_a_cuda_device_the_background_thread_pins_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[tuple[torch.device, str]] = []

    def pin(batch: Batch, device: torch.device) -> Batch:
        pinned.append((device, threading.current_thread().name))
        return batch

    monkeypatch.setattr("recipes.data.loader.pinned", pin)
    loader = open_loader(Numbers(50), device=torch.device("cuda", 3))
    loader.batches(0)
    loader.close()
    assert len(pinned) in (4, 8) and set(pinned) == {(torch.device("cuda", 3), "data_0")}


def test_the_next_update_is_built_in_the_background() -> None:
    built: list[tuple[int, str]] = []

    class Watched(Numbers):
        def example(self, epoch: int, index: int, group: Row) -> Row:
            built.append((index, threading.current_thread().name))
            return super().example(epoch, index, group)

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 10
        while len(built) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(built) == count

    loader = open_loader(Watched(50))
    time.sleep(0.1)
    assert built == [], "nothing is read while the model is built"
    loader.batches(0)
    wait_for(16)
    loader.close()
    assert {name.split("_")[0] for _, name in built} == {"data"}
    assert [index for index, _ in built] == [position.index for update in (0, 1) for position in loader.positions(update)]


def test_closing_waits_for_the_update_that_is_being_built() -> None:
    """A thread that still reads while its data set, its folder or Python itself goes away ends with a traceback."""

    class Held(Numbers):
        def example(self, epoch: int, index: int, group: Row) -> Row:
            if len(built) >= 8:  # the update after the first
                begun.set()
                assert ready.wait(10)
            built.append(index)
            return super().example(epoch, index, group)

    begun, ready, built = threading.Event(), threading.Event(), list[int]()
    loader = open_loader(Held(50))
    loader.batches(0)
    assert begun.wait(10)
    threading.Timer(0.05, ready.set).start()
    loader.close()
    assert len(built) == 16


def test_wait_seconds_is_the_time_until_the_data_were_ready() -> None:
    class Held(Numbers):
        def example(self, epoch: int, index: int, group: Row) -> Row:
            assert ready.wait(10)
            return super().example(epoch, index, group)

    ready = threading.Event()
    loader = open_loader(Held(50))
    threading.Timer(0.1, ready.set).start()
    start = time.perf_counter()
    loader.batches(0)
    assert 0.05 < loader.wait_seconds <= time.perf_counter() - start
    loader.close()


def test_loading_draws_nothing_from_torchs_generator(build: Callable[..., UpdateLoader]) -> None:
    """The training thread reseeds this generator for dropout at the same time."""
    state = torch.get_rng_state()
    loader = build()
    loader.batches(0), loader.batches(11)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_in_the_background_is_raised_in_the_caller_as_one_line(build: Callable[..., UpdateLoader], num_workers: int) -> None:
    loader = build(Numbers(8, broken=5), num_workers=num_workers)
    with pytest.raises(ConfigError) as caught:
        loader.batches(0)
    assert str(caught.value) == "sample 5 is damaged; fix it"


def test_fewer_samples_than_one_batch_are_refused_with_numbers() -> None:
    with pytest.raises(ConfigError, match=r"31 samples, fewer than one batch of 32; .*--set run\.global_batch_size=24"):
        check_enough(Numbers(31), 32)
    with pytest.raises(ConfigError, match=r"31 samples, fewer than one batch of 32 \(9 are short\); change that, use more data or --set"):
        check_enough(Numbers(31), 32, "9 are short")
    check_enough(Numbers(32), 32)
    assert order_of(Numbers(32), batch=32).updates_per_epoch == 1


def held_out(size: int, *, samples: int, micro: int, group: int = 1, rank: Row = (0, 1)) -> list[Batch]:
    dp_rank, dp_size = rank
    options = {"max_samples": samples, "micro_batch_size": micro, "group_size": group, "dp_rank": dp_rank, "dp_size": dp_size}
    return list(eval_batches(Numbers(size), **options))


def counted_rows(share: list[Batch]) -> list[Row]:
    return [tuple(row) for batch in share if batch.is_counted for row in batch.inputs.tolist()]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 4), st.integers(1, 9), st.integers(1, 4))
def test_every_held_out_sample_is_counted_once_and_every_rank_has_equally_many_batches(
    size: int, samples: int, micro: int, dp_size: int, parts: int
) -> None:
    """Also on more ranks than samples. Each sample has the same group as with one rank, and no batch has samples of two groups."""
    group = 1 if parts == 1 else micro * parts
    alone = counted_rows(held_out(size, samples=samples, micro=1, group=group))
    assert len(alone) == len(set(alone)) == min(size, samples) and {row[0] for row in alone} == {EVAL_EPOCH}
    shares = [held_out(size, samples=samples, micro=micro, group=group, rank=(rank, dp_size)) for rank in range(dp_size)]
    assert len({len(share) for share in shares}) == 1
    assert [row for share in shares for row in counted_rows(share)] == alone
    batches = [batch for share in shares for batch in share]
    assert all(1 <= len(batch.inputs) <= micro for batch in batches)
    assert group == 1 or all(len({tuple(row[2:]) for row in batch.inputs.tolist()}) == 1 for batch in batches)


def test_held_out_samples_are_spread_over_the_data() -> None:
    rows = [row for batch in held_out(100, samples=4, micro=4) for row in batch.inputs.tolist()]
    assert [row[1] for row in rows] == [0, 25, 50, 75]
    assert not held_out(0, samples=4, micro=4, rank=(0, 2))


def test_bad_held_out_items_remain_in_the_data_set_until_take_bad() -> None:
    dataset = Numbers(4, bad=2)
    options = {"max_samples": 4, "micro_batch_size": 2, "group_size": 1, "dp_rank": 0, "dp_size": 1}
    assert len(list(eval_batches(dataset, **options))) == 2
    assert [item.where for item in dataset.take_bad()] == ["item 2"] and not dataset.take_bad()


class Counted(Numbers):
    """Numbers whose batches have targets: the index of each sample."""

    def collate(self, examples: list[Row]) -> Batch:
        batch = super().collate(examples)
        index_B = batch.inputs[:, 1]
        return replace(batch, targets=Targets(index_B.clone(), index_B))


@settings(max_examples=100, deadline=None)
@given(size=st.integers(0, 40), micro=st.integers(1, 9), dp_size=st.integers(1, 9))
def test_an_evaluation_counts_every_sample_once_on_any_number_of_ranks(size: int, micro: int, dp_size: int) -> None:
    """Also on more ranks than samples. Every rank has equally many batches of the same sizes, since the forward is a collective."""
    ranks = [list(every_batch(Counted(size), micro, rank, dp_size)) for rank in range(dp_size)]
    assert len({tuple(len(batch.inputs) for batch in batches) for batches in ranks}) == 1
    assert all(len(batch.inputs) <= micro for batches in ranks for batch in batches)
    targets = [batch.targets for batches in ranks for batch in batches if batch.targets is not None]
    counted = [value for one in targets for value in one.values[one.is_counted()].tolist()]
    assert counted == list(range(size)), "in the order of the data"
    assert all(0 <= value < size for one in targets for value in one.values.tolist()), "what fills up is a sample of the data"
