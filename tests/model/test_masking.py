"""Token masks: published statistics, determinism, and that nothing but the sample is touched."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import TokenMaskConfig
from model.masking import span_starts_to_mask, token_mask

VOCAB_SIZE = 50
MASK_ID = VOCAB_SIZE - 1


def draw(config: TokenMaskConfig, num_tokens: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.Generator(np.random.Philox(seed))
    tokens_T = rng.integers(4, MASK_ID, num_tokens)
    return (tokens_T, *token_mask(tokens_T, config, rng, vocab_size=VOCAB_SIZE))


def test_published_spans_mask_30_7_percent_of_512_tokens() -> None:
    fractions = [draw(TokenMaskConfig(prob=0.35, length=4), 512, seed)[2].mean() for seed in range(2000)]
    assert np.mean(fractions) == pytest.approx(0.307, abs=0.002)  # data2vec.md 3.1, computed from the published algorithm


def test_single_token_masks_hit_every_position_equally_often() -> None:
    hits_T = sum(draw(TokenMaskConfig(prob=0.3, length=1), 20, seed)[2].astype(int) for seed in range(3000))
    np.testing.assert_allclose(np.asarray(hits_T) / 3000, 0.3, atol=0.045)


def test_bert_masks_split_80_10_10_and_lose_only_on_the_masked_80() -> None:
    config = TokenMaskConfig(prob=0.15, length=1, leave_unmasked_prob=0.1, random_token_prob=0.1)
    tokens_T, input_T, mask_T = draw(config, 400_000, 0)
    assert mask_T.mean() == pytest.approx(0.15 * 0.8, abs=0.003)
    assert ((input_T != tokens_T) & ~mask_T).mean() == pytest.approx(0.15 * 0.1 * 44 / 45, abs=0.001)  # a random one may be the same
    np.testing.assert_array_equal(mask_T, input_T == MASK_ID)


def test_loss_on_all_selected_counts_kept_and_random_tokens() -> None:
    config = TokenMaskConfig(prob=0.15, length=1, leave_unmasked_prob=0.1, random_token_prob=0.1, loss_on_all_selected=True)
    _, input_T, mask_T = draw(config, 200_000, 0)
    assert mask_T.mean() == pytest.approx(0.15, abs=0.003)
    assert (input_T[mask_T] == MASK_ID).mean() == pytest.approx(0.8, abs=0.01)


def test_random_tokens_are_uniform_over_what_is_not_special() -> None:
    _, input_T, mask_T = draw(TokenMaskConfig(prob=1.0, length=1, random_token_prob=1.0), 200_000, 0)
    values, counts = np.unique(input_T, return_counts=True)
    assert (values.min(), values.max(), len(values)) == (4, MASK_ID - 1, VOCAB_SIZE - 5)
    np.testing.assert_allclose(counts / counts.mean(), 1, atol=0.08)
    assert not mask_T.any()


configs = st.builds(
    TokenMaskConfig,
    prob=st.floats(0, 1),
    length=st.integers(1, 10),
    leave_unmasked_prob=st.floats(0, 0.5),
    random_token_prob=st.floats(0, 0.5),
    loss_on_all_selected=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(configs, st.integers(1, 200), st.integers(0, 2**32))
def test_any_mask_repeats_keeps_its_length_and_changes_no_other_token(config: TokenMaskConfig, num_tokens: int, seed: int) -> None:
    tokens_T, input_T, mask_T = draw(config, num_tokens, seed)
    for first, again in zip((tokens_T, input_T, mask_T), draw(config, num_tokens, seed), strict=True):
        np.testing.assert_array_equal(first, again)
    assert input_T.shape == mask_T.shape == tokens_T.shape
    assert mask_T[input_T == MASK_ID].all()
    assert not ((input_T == MASK_ID) & (tokens_T == MASK_ID)).any()
    if config.loss_on_all_selected:
        np.testing.assert_array_equal(input_T[~mask_T], tokens_T[~mask_T])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 29), unique=True), st.integers(1, 8))
def test_spans_cover_their_start_and_what_follows_but_never_the_end(starts: list[int], length: int) -> None:
    mask_T = span_starts_to_mask(np.array(starts, dtype=np.int64), length, 30)
    expected = {position for start in starts for position in range(start, start + length) if position < 30}
    assert set(np.flatnonzero(mask_T)) == expected
