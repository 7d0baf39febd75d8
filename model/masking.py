"""Mask functions: which positions of a sample are hidden from the student, drawn with numpy. No tensors, files or seeds here.

Shapes: T positions of one sample: tokens (`<s>` and `</s>` included) or frames without padding; N patches, row-major, of a square grid.
"""

import math

import numpy as np

from model.config import BlockMaskConfig, SpanMaskConfig, TokenMaskConfig

NUM_SPECIAL_TOKENS = 4
"""Special symbols at the start of the vocabulary: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, in the published order. `<mask>` is the last
symbol."""
BLOCK_ATTEMPTS = 10
"""How often block_mask draws a further rectangle before it stops because none fits."""


def span_starts_to_mask(starts: np.ndarray, length: int, num_positions: int) -> np.ndarray:
    """Return a bool array of `num_positions`: True at each start and at the length - 1 positions after it. Spans may overlap. A span
    that exceeds the end is cut off there."""
    mask_T = np.zeros(num_positions, dtype=bool)
    covered = (starts[:, None] + np.arange(length)).ravel()
    mask_T[covered[covered < num_positions]] = True
    return mask_T


def token_mask(
    tokens_T: np.ndarray, config: TokenMaskConfig, rng: np.random.Generator, *, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the token ids that the student reads instead of `tokens_T`, and a bool array of the same length, True where the loss is
    computed.

    min(T, floor(prob * T / length + U[0, 1))) span starts are drawn without replacement from all T positions, `<s>` and `</s>` too. A
    sample may have no masked token. Random tokens are uniform over the symbols that are neither special nor `<mask>`.

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
    """Return which of a recording's T = `num_frames` frames are hidden from the student: bool (T,), True at hidden frames.

    max(min_masks, floor(prob * T / length + U[0, 1))) span starts are drawn without replacement from [0, T - length), so that the last
    frame is never masked. If that range has no more starts than there are spans, they are drawn from [0, spans + 1). Then a short sample
    may be fully masked or, with T = 1, not masked at all.

    Source: fairseq data/data_utils.py compute_mask_indices (static length, overlap allowed).
    """
    num_spans = max(config.min_masks, int(config.prob * num_frames / config.length + rng.random()))
    num_starts = num_frames - config.length
    if num_starts <= num_spans:
        num_starts = num_spans + 1
    return span_starts_to_mask(rng.choice(num_starts, num_spans, replace=False), config.length, num_frames)


def unmask_to(mask_T: np.ndarray, num_masked: int, rng: np.random.Generator) -> np.ndarray:
    """Return a copy of the mask in which only `num_masked` random positions of the masked ones stay masked, so that every sample of a
    batch can have the same number. This may split spans. Source: fairseq data/data_utils.py, require_same_masks."""
    masked = np.flatnonzero(mask_T)
    assert 0 <= num_masked <= len(masked)
    fewer_T = np.zeros_like(mask_T)
    fewer_T[rng.choice(masked, num_masked, replace=False)] = True
    return fewer_T


def block_mask(grid: int, config: BlockMaskConfig, rng: np.random.Generator) -> np.ndarray:
    """Return which patches of an image of grid x grid patches are hidden from the student: bool (grid^2,), row by row. Random
    rectangles, which may overlap, are added until exactly num_patches are hidden. Fewer are hidden if ten draws in a row give no
    rectangle that fits.

    Source: BEiT masking_generator.py, as data2vec_vision calls it.
    """
    mask = np.zeros((grid, grid), dtype=bool)
    budget = config.num_patches
    while budget > 0:
        covered = _add_block(mask, min(budget, config.max_block), config, rng)
        if not covered:
            break
        budget -= covered
    return mask.ravel()


def _add_block(mask: np.ndarray, most: int, config: BlockMaskConfig, rng: np.random.Generator) -> int:
    """Set one random rectangle of `mask` (grid x grid) to True. It must contain 1 to `most` patches that were False; return how many.
    Return 0 if none of ten drawn rectangles fits."""
    grid, log_aspect = len(mask), math.log(config.min_aspect)
    for _ in range(BLOCK_ATTEMPTS):
        # the formula of Python's random.uniform, because `most` may be less than min_block, which NumPy's uniform refuses
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
