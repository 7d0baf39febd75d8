"""The loader: the samples of an update, their split over ranks and micro-batches, and resuming without replay."""

import threading
import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batch import Batch
from recipes.data.loader import UpdateLoader, check_enough, micro_batches, rank_share
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
