"""Token, span and block masks: published statistics, determinism, and that nothing but the sample is touched."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import masking
from model.config import BlockMaskConfig, SpanMaskConfig, TokenMaskConfig
from model.masking import block_mask, span_mask, span_starts_to_mask, token_mask, unmask_to

VOCAB_SIZE = 50
MASK_ID = VOCAB_SIZE - 1


def counted(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


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
def test_a_token_mask_is_reproducible_and_changes_no_other_token(config: TokenMaskConfig, num_tokens: int, seed: int) -> None:
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
def test_spans_cover_their_start_and_the_next_positions_up_to_the_end(starts: list[int], length: int) -> None:
    mask_T = span_starts_to_mask(np.array(starts, dtype=np.int64), length, 30)
    expected = {position for start in starts for position in range(start, start + length) if position < 30}
    assert set(np.flatnonzero(mask_T)) == expected


def test_published_spans_mask_49_2_percent_of_500_frames() -> None:
    fractions = [span_mask(500, SpanMaskConfig(), counted(seed)).mean() for seed in range(3000)]
    assert np.mean(fractions) == pytest.approx(0.492, abs=0.002)  # data2vec.md section 15, computed from the published algorithm


def test_every_frame_but_the_last_can_be_masked() -> None:
    masks = np.array([span_mask(100, SpanMaskConfig(), counted(seed)) for seed in range(3000)])
    assert not masks[:, -1].any()
    # starts 0 to 89, 6 or 7 of them: the frame at 98 has one start, a middle one ten
    expected = [6.5 / 90, *[1 - math.comb(80, 6) / math.comb(90, 6)] * 2, 6.5 / 90]
    np.testing.assert_allclose(masks[:, [0, 40, 60, 98]].mean(axis=0), expected, atol=0.035)


def test_number_of_spans_is_rounded_up_with_the_probability_of_the_fraction() -> None:
    """prob * T / length is 3.25 and spans of one frame do not overlap, so each count is a number of spans."""
    config = SpanMaskConfig(prob=0.065, length=1)
    counts = np.array([span_mask(50, config, counted(seed)).sum() for seed in range(2000)])
    assert set(counts) == {3, 4}
    assert (counts == 4).mean() == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize(("min_masks", "expected"), [(0, {0, 1}), (1, {1}), (3, {3})])
def test_min_masks_is_the_minimum_number_of_spans(min_masks: int, expected: set[int]) -> None:
    config = SpanMaskConfig(prob=0.01, length=1, min_masks=min_masks)
    assert {int(span_mask(50, config, counted(seed)).sum()) for seed in range(200)} == expected


@pytest.mark.parametrize(
    ("num_frames", "starts"), [(1, {0}), (3, {0, 1}), (10, {0, 1}), (11, {0, 1}), (12, {0, 1}), (13, {0, 1, 2}), (20, set(range(10)))]
)
def test_short_samples_have_the_published_starts(num_frames: int, starts: set[int]) -> None:
    """One span. If T - length is at most 1, there are two starts; with one frame the second start lies outside."""
    masks = [span_mask(num_frames, SpanMaskConfig(prob=0.0), counted(seed)) for seed in range(300)]
    assert {int(mask_T.argmax()) for mask_T in masks if mask_T.any()} == starts
    assert all(mask_T.any() for mask_T in masks) == (num_frames > 1)


span_configs = st.builds(SpanMaskConfig, prob=st.floats(0, 1), length=st.integers(1, 12), min_masks=st.integers(0, 3))


@settings(max_examples=150, deadline=None)
@given(span_configs, st.integers(1, 300), st.integers(0, 2**32))
def test_a_span_mask_is_reproducible_and_consists_of_whole_spans(config: SpanMaskConfig, num_frames: int, seed: int) -> None:
    mask_T = span_mask(num_frames, config, counted(seed))
    np.testing.assert_array_equal(mask_T, span_mask(num_frames, config, counted(seed)))
    assert mask_T.shape == (num_frames,) and mask_T.dtype == bool
    most = max(config.min_masks, int(config.prob * num_frames / config.length) + 1)
    assert mask_T.sum() <= most * config.length
    edges = np.flatnonzero(np.diff(mask_T, prepend=False, append=False))
    if num_frames - config.length > most:
        assert not mask_T[-1]
        assert all(end - start >= config.length for start, end in edges.reshape(-1, 2))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.data(), st.integers(0, 2**32))
def test_unmasking_leaves_exactly_the_requested_number_of_masked_frames(bits: list[bool], data: st.DataObject, seed: int) -> None:
    mask_T = np.array(bits)
    num_masked = data.draw(st.integers(0, sum(bits)))
    fewer_T = unmask_to(mask_T, num_masked, counted(seed))
    assert fewer_T.sum() == num_masked
    assert not (fewer_T & ~mask_T).any()
    np.testing.assert_array_equal(mask_T, bits)


def test_unmasking_takes_every_masked_frame_equally_often() -> None:
    mask_T = span_starts_to_mask(np.array([2, 10]), 5, 20)
    kept_T = np.mean([unmask_to(mask_T, 4, counted(seed)) for seed in range(3000)], axis=0)
    np.testing.assert_allclose(kept_T[mask_T], 0.4, atol=0.04)


def test_unmasking_cannot_mask_more() -> None:
    with pytest.raises(AssertionError):
        unmask_to(np.array([True, False, False]), 2, counted(0))


def test_published_blocks_mask_119_5_of_196_patches() -> None:
    counts = np.array([block_mask(14, BlockMaskConfig(), counted(seed)).sum() for seed in range(3000)])
    assert counts.mean() == pytest.approx(119.5, abs=0.1)  # data2vec.md section 15
    assert counts.max() == 120 and 105 <= counts.min() <= 113


def test_blocks_cover_mirrored_patches_equally_often_and_the_middle_more_often() -> None:
    masks = np.array([block_mask(14, BlockMaskConfig(), counted(seed)) for seed in range(4000)])
    often = masks.mean(axis=0).reshape(14, 14)
    for mirrored in (often[::-1], often[:, ::-1], often.T):
        np.testing.assert_allclose(often, mirrored, atol=0.05)
    assert often[6:8, 6:8].min() > often[[0, 0, -1, -1], [0, -1, 0, -1]].max() + 0.2


def lone_blocks(config: BlockMaskConfig, grid: int, count: int) -> list[tuple[int, int]]:
    """Return height and width of the block in masks that have only one."""
    sizes = []
    for seed in range(count):
        mask = block_mask(grid, config, counted(seed)).reshape(grid, grid)
        height, width = int(mask.any(axis=1).sum()), int(mask.any(axis=0).sum())
        if 0 < mask.sum() == height * width:
            sizes.append((height, width))
    return sizes


def test_a_budget_below_the_smallest_block_draws_between_the_two() -> None:
    """U(16, 4) is between 4 and 16, and only small blocks fit. NumPy's own uniform would raise."""
    counts = {int(block_mask(14, BlockMaskConfig(num_patches=4), counted(seed)).sum()) for seed in range(300)}
    assert max(counts) == 4 and counts <= {0, 3, 4}


def test_no_block_is_as_high_or_wide_as_the_grid() -> None:
    """12 patches on a grid of four are 3 x 3 for a few aspects (one in sixty). For all others they are as long as the grid."""
    config = BlockMaskConfig(num_patches=12, min_block=12, max_block=12)
    assert 0.05 < np.mean([block_mask(4, config, counted(seed)).any() for seed in range(300)]) < 0.3


def test_no_block_covers_more_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    add_block, covered = masking._add_block, []
    monkeypatch.setattr(masking, "_add_block", lambda *args: covered.append(add_block(*args)) or covered[-1])
    for seed in range(20):
        block_mask(14, BlockMaskConfig(num_patches=60, min_block=4, max_block=9), counted(seed))
    assert max(covered) == 9


def test_aspects_are_log_uniform_between_their_limits() -> None:
    sizes = lone_blocks(BlockMaskConfig(num_patches=400, min_block=400, max_block=400, min_aspect=0.5), 60, 400)
    logs = np.log([height / width for height, width in sizes]) / math.log(2)
    assert len(logs) > 150 and -1.1 < logs.min() < -0.85 and 0.85 < logs.max() < 1.1
    assert logs.mean() == pytest.approx(0, abs=0.1)
    assert logs.std() == pytest.approx(1 / math.sqrt(3), abs=0.06)


block_configs = st.builds(
    BlockMaskConfig,
    num_patches=st.integers(0, 60),
    min_block=st.integers(1, 20),
    max_block=st.integers(1, 60),
    min_aspect=st.floats(0.1, 1),
)


@settings(max_examples=100, deadline=None)
@given(block_configs, st.integers(2, 10), st.integers(0, 2**32))
def test_a_block_mask_is_reproducible_ends_and_stays_within_the_budget(config: BlockMaskConfig, grid: int, seed: int) -> None:
    mask_N = block_mask(grid, config, counted(seed))
    np.testing.assert_array_equal(mask_N, block_mask(grid, config, counted(seed)))
    assert mask_N.shape == (grid * grid,) and mask_N.dtype == bool
    assert mask_N.sum() <= config.num_patches
