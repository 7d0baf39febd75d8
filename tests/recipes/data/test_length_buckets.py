"""The order of samples in batches of similar lengths."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.length_buckets import BATCHES_PER_BUCKET, bucketed_order

LENGTHS_N = np.random.default_rng(0).integers(2, 60, 5000)


def ordered(lengths_N: np.ndarray, batch_size: int, seed: int = 1) -> np.ndarray:
    return bucketed_order(lengths_N, batch_size, np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=90), st.integers(1, 7), st.integers(0, 9))
def test_an_epoch_has_every_sample_once(lengths: list[int], batch_size: int, seed: int) -> None:
    assert sorted(ordered(np.array(lengths, dtype=np.int64), batch_size, seed).tolist()) == list(range(len(lengths)))


def test_samples_of_a_batch_have_similar_lengths() -> None:
    lengths_NB = LENGTHS_N[ordered(LENGTHS_N, 10)].reshape(-1, 10)
    spread = (lengths_NB.max(1) - lengths_NB.min(1)).mean()
    assert spread < (LENGTHS_N.max() - LENGTHS_N.min()) / BATCHES_PER_BUCKET * 2


def test_the_order_depends_on_the_generator_alone() -> None:
    assert np.array_equal(ordered(LENGTHS_N, 10), ordered(LENGTHS_N, 10)) and not np.array_equal(
        ordered(LENGTHS_N, 10), ordered(LENGTHS_N, 10, 2)
    )


def test_batches_of_short_and_of_long_samples_are_mixed() -> None:
    means = LENGTHS_N[ordered(LENGTHS_N, 10)].reshape(-1, 10).mean(1)
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.15


def test_samples_that_fill_no_batch_are_random_ones() -> None:
    """Each of 10 samples is left out about equally often: 3 of 10 in each of 600 epochs, standard deviation 11."""
    counts = np.zeros(10)
    for seed in range(600):
        counts[ordered(np.arange(10), 7, seed)[7:]] += 1
    assert counts.sum() == 1800 and counts.min() > 130 and counts.max() < 230
