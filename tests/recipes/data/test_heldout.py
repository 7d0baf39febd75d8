"""The batches of an evaluation: every sample counts once on any number of ranks, and every rank has equally many batches."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from model.batch import Batch, Targets
from recipes.data.heldout import EVAL_EPOCH, eval_batches, every_batch
from tests.recipes.data.numbers_data import Numbers, Row


def held_out(size: int, *, samples: int, micro: int, group: int = 1, rank: Row = (0, 1)) -> list[Batch]:
    dp_rank, dp_size = rank
    options = {"max_samples": samples, "micro_batch_size": micro, "group_size": group, "dp_rank": dp_rank, "dp_size": dp_size}
    return list(eval_batches(Numbers(size), **options))


def counted_rows(share: list[Batch]) -> list[Row]:
    return [tuple(row) for batch in share if batch.is_counted for row in batch.inputs.tolist()]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 4), st.integers(1, 9), st.integers(1, 4))
def test_every_rank_evaluates_equally_many_equal_batches_and_no_sample_twice(
    size: int, samples: int, micro: int, dp_size: int, parts: int
) -> None:
    """Also on more ranks than samples. Each sample has the same group as with one rank, and no batch has samples of two groups."""
    group, num_samples = 1 if parts == 1 else micro * parts, min(size, samples)
    alone = counted_rows(held_out(size, samples=samples, micro=1, group=group))
    assert len(alone) == len(set(alone)) == num_samples and {row[0] for row in alone} == {EVAL_EPOCH}
    shares = [held_out(size, samples=samples, micro=micro, group=group, rank=(rank, dp_size)) for rank in range(dp_size)]
    assert len({tuple(len(batch.inputs) for batch in share) for share in shares}) == 1
    rows = [row for share in shares for row in counted_rows(share)]
    assert rows and len(rows) == len(set(rows)) and set(rows) <= set(alone)
    if group == 1 or num_samples <= dp_size:
        assert rows == alone[: len(rows)] and len(rows) == max(num_samples // dp_size * dp_size, min(num_samples, dp_size))
    for batch in (batch for share in shares for batch in share):
        assert group == 1 or len({tuple(row[2:]) for row in batch.inputs.tolist()}) == 1


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
