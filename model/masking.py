"""Mask functions: which positions of a sample the student does not see, drawn with numpy. Holds no tensors, files or seeds.

Shapes: T tokens of one sample, `<s>` and `</s>` included.
"""

import numpy as np

from model.config import TokenMaskConfig

NUM_SPECIAL_TOKENS = 4
"""`<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3: the published order. `<mask>` is the last symbol of the vocabulary."""


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
