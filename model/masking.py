"""Mask functions: which positions of a sample the student does not see, drawn with numpy. Holds no tensors, files or seeds.

Shapes: T positions of one sample: tokens (`<s>` and `</s>` included) or frames without padding; N patches, row-major, of a square grid.
"""

import math

import numpy as np

from model.config import BlockMaskConfig, SpanMaskConfig, TokenMaskConfig

NUM_SPECIAL_TOKENS = 4
"""`<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3: the published order. `<mask>` is the last symbol of the vocabulary."""
BLOCK_ATTEMPTS = 10
"""Draws for one block before block_mask gives up."""


def span_starts_to_mask(starts: np.ndarray, length: int, num_positions: int) -> np.ndarray:
    """bool of shape (num_positions,): each start and the length - 1 positions to its right; overlaps merge, the overhang drops."""
    mask_T = np.zeros(num_positions, dtype=bool)
    covered = (starts[:, None] + np.arange(length)).ravel()
    mask_T[covered[covered < num_positions]] = True
    return mask_T


def token_mask(
    tokens_T: np.ndarray, config: TokenMaskConfig, rng: np.random.Generator, *, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """What the student reads in place of `tokens_T`, and where the loss reads its prediction.

    floor(prob * T / length + U[0, 1)) span starts are drawn without replacement from all T positions, `<s>` and `</s>` too. A
    sample may come out without any masked token. Random tokens are uniform over the symbols that are neither special nor `<mask>`.

    Shapes: tokens_T -> input_T, mask_T (bool).
    Source: fairseq data/mask_tokens_dataset.py; the loss mask (`src_tokens == mask_idx`) is data2vec_text.py's.
    """
    num_tokens = len(tokens_T)
    num_spans = min(int(config.prob * num_tokens / config.length + rng.random()), num_tokens)
    selected_T = span_starts_to_mask(rng.choice(num_tokens, num_spans, replace=False), config.length, num_tokens)
    fate_T = rng.random(num_tokens)
    random_T = selected_T & (fate_T < config.random_token_prob)
    keep_T = selected_T & ~random_T & (fate_T < config.random_token_prob + config.leave_unmasked_prob)
    hidden_T = selected_T & ~random_T & ~keep_T
    input_T = tokens_T.copy()
    input_T[hidden_T] = vocab_size - 1
    input_T[random_T] = rng.integers(NUM_SPECIAL_TOKENS, vocab_size - 1, random_T.sum())
    return input_T, selected_T if config.loss_on_all_selected else hidden_T


def span_mask(num_frames: int, config: SpanMaskConfig, rng: np.random.Generator) -> np.ndarray:
    """Frames that the student does not see, bool (T,).

    max(min_masks, floor(prob * T / length + U[0, 1))) span starts are drawn without replacement from [0, T - length), so that
    the last frame is never masked; where that leaves too few, from one start more than spans, and then a short sample may come
    out all masked or, with T = 1, with nothing masked.

    Source: fairseq data/data_utils.py compute_mask_indices (static length, overlap allowed).
    """
    num_spans = max(config.min_masks, int(config.prob * num_frames / config.length + rng.random()))
    num_starts = num_frames - config.length
    if num_starts <= num_spans:
        num_starts = num_spans + 1
    return span_starts_to_mask(rng.choice(num_starts, num_spans, replace=False), config.length, num_frames)


def unmask_to(mask_T: np.ndarray, num_masked: int, rng: np.random.Generator) -> np.ndarray:
    """A copy with single random positions un-masked until `num_masked` remain: every sample of a batch then has as many.
    Spans break. Source: fairseq data/data_utils.py, require_same_masks."""
    masked = np.flatnonzero(mask_T)
    assert 0 <= num_masked <= len(masked)
    fewer_T = np.zeros_like(mask_T)
    fewer_T[rng.choice(masked, num_masked, replace=False)] = True
    return fewer_T


def block_mask(grid: int, config: BlockMaskConfig, rng: np.random.Generator) -> np.ndarray:
    """Patches that the student does not see, bool (N,) with N = grid^2: rectangles are laid over each other until num_patches
    are covered, or until one finds no place in ten attempts. Never more than num_patches.

    Source: BEiT masking_generator.py, as data2vec_vision calls it.
    """
    mask = np.zeros((grid, grid), dtype=bool)
    budget = config.num_patches
    while budget > 0:
        covered = _lay_block(mask, min(budget, config.max_block), config, rng)
        if not covered:
            break
        budget -= covered
    return mask.ravel()


def _lay_block(mask: np.ndarray, most: int, config: BlockMaskConfig, rng: np.random.Generator) -> int:
    """Cover one more rectangle of `mask`, at most `most` new patches, and return how many were new; 0: none was found."""
    grid, log_aspect = len(mask), math.log(config.min_aspect)
    for _ in range(BLOCK_ATTEMPTS):
        # by hand, as Python's random.uniform does: `most` may be less than min_block, which NumPy's refuses
        area = config.min_block + (most - config.min_block) * rng.random()
        aspect = math.exp(log_aspect * (1 - 2 * rng.random()))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= grid or width >= grid:
            continue
        top, left = rng.integers(grid - height + 1), rng.integers(grid - width + 1)
        block = mask[top : top + height, left : left + width]
        num_new = block.size - int(block.sum())
        if 0 < num_new <= most:
            block[:] = True
            return num_new
    return 0
