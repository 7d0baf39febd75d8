"""The data order: which samples make up an update, and at which position a run continues after its global batch size changed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.order import EpochOffset
from recipes.data.permutation import CountedPermutation
from tests.recipes.data.numbers_data import Numbers, order_of


def rng_of(epoch: int) -> np.random.Generator:
    """Return the generator that the order of an epoch gets, with seed 1."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((1, epoch))))


def whole_epoch(size: int, epoch: int) -> list[int]:
    return [int(index) for index in CountedPermutation(size, rng_of(epoch))[:]]


def test_an_epoch_visits_every_sample_at_most_once_and_drops_what_fills_no_batch() -> None:
    order = order_of(Numbers(50))
    assert order.updates_per_epoch == 6
    for epoch in range(2):
        visited = [position for update in range(6 * epoch, 6 * epoch + 6) for position in order.positions(update)]
        assert {position.epoch for position in visited} == {epoch}
        assert len(visited) == len({position.index for position in visited}) == 48
    assert {order.positions(update)[0].epoch for update in (5, 6, 12)} == {0, 1, 2}


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    order = order_of(Numbers(50))
    assert order.positions(3) == order_of(Numbers(50)).positions(3)
    assert order.positions(3) != order_of(Numbers(50), seed=2).positions(3)
    assert [position.index for position in order.positions(0)] != [position.index for position in order.positions(6)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 30), st.integers(0, 40))
def test_a_global_batch_is_whole_groups_of_consecutive_indices_in_the_data_sets_order(
    group: int, num_groups: int, update: int, spare: int
) -> None:
    dataset, batch = Numbers(group * num_groups * 3 + spare), group * num_groups
    order = order_of(dataset, batch=batch, group=group)
    positions = order.positions(update)
    epoch, offset = divmod(update, order.updates_per_epoch)
    entire = whole_epoch(len(dataset), epoch)
    assert [position.index for position in positions] == entire[offset * batch :][:batch]
    for start in range(0, batch, group):
        members = tuple(position.index for position in positions[start : start + group])
        assert {position.group for position in positions[start : start + group]} == {members}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 9), st.data())
def test_a_part_of_an_update_is_that_part_of_all_of_it_with_whole_groups(
    group: int, num_groups: int, update: int, data: st.DataObject
) -> None:
    batch = group * num_groups
    start = data.draw(st.integers(0, batch))
    share = slice(start, data.draw(st.integers(start, batch)))
    order = order_of(Numbers(100), batch=batch, group=group)
    assert order.positions(update, share) == order.positions(update)[share]


def test_a_run_that_began_before_there_was_a_choice_keeps_the_order_that_numpy_draws() -> None:
    order = order_of(Numbers(50), batch=10, shuffling="drawn")
    for epoch in range(2):
        drawn = [position.index for update in range(5 * epoch, 5 * epoch + 5) for position in order.positions(update)]
        assert drawn == rng_of(epoch).permutation(50).tolist() != whole_epoch(50, epoch)


@pytest.mark.parametrize("shuffling", ["drawn", "counted"])
def test_a_data_set_may_have_an_order_of_its_own(shuffling: str) -> None:
    class Reversed(Numbers):
        def order(self, rng: np.random.Generator) -> np.ndarray:  # type: ignore[override]
            return np.arange(len(self))[::-1] - int(rng.integers(1))

    order = order_of(Reversed(20), batch=10, shuffling=shuffling)
    assert [position.index for position in order.positions(3)] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 30), st.integers(0, 20))
def test_a_run_that_is_resumed_at_any_update_continues_with_the_same_samples(group: int, num_groups: int, update: int, spare: int) -> None:
    dataset, batch = Numbers(3 * group * num_groups + spare), group * num_groups
    whole = order_of(dataset, batch=batch, group=group)
    place = whole.start_of(update)
    assert place == EpochOffset.of_constant_batch(update, batch, len(dataset)), (
        "the same as in a run of an older release, which stored no position"
    )
    resumed = order_of(dataset, batch=batch, group=group, first=place)
    for number in range(update, update + 8):
        assert resumed.positions(number) == whole.positions(number) and resumed.start_of(number) == whole.start_of(number)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 9)), min_size=1, max_size=5), st.integers(0, 5))
def test_with_changing_global_batch_sizes_an_epoch_repeats_no_sample_and_leaves_out_only_some_at_its_end(
    launches: list[tuple[int, int]], spare: int
) -> None:
    """Each launch is (number of groups of two in the global batch, number of updates)."""
    dataset, read, first = Numbers(24 + spare), dict[int, list[int]](), EpochOffset()
    for num_groups, updates in launches:
        order = order_of(dataset, batch=2 * num_groups, group=2, first=first)
        for update in range(first.update, first.update + updates):
            for position in order.positions(update):
                read.setdefault(position.epoch, []).append(position.index)
        first = order.start_of(first.update + updates)
    assert sorted(read) == list(range(len(read)))
    for epoch, indices in read.items():
        entire = whole_epoch(len(dataset), epoch)
        assert indices == entire[: len(indices)]
        assert epoch == len(read) - 1 or len(indices) > len(dataset) - 12, "only samples that do not fill a batch are left out"


def test_with_another_group_size_the_position_is_rounded_up_to_a_whole_group() -> None:
    order = order_of(Numbers(50), batch=8, group=4, first=EpochOffset(7, 2, 6))
    assert order.start_of(7) == (7, 2, 8) and order.positions(7) == order_of(
        Numbers(50), batch=8, group=4, first=EpochOffset(7, 2, 8)
    ).positions(7)


def test_a_position_beyond_the_data_is_the_start_of_the_next_epoch() -> None:
    """The data of the resumed run may have fewer samples."""
    assert order_of(Numbers(20), batch=8, first=EpochOffset(7, 2, 32)).start_of(7) == (7, 3, 0)
    with pytest.raises(AssertionError):
        order_of(Numbers(20), first=EpochOffset(7, 2, 8)).start_of(6)
