"""The order of samples of different lengths: batches of similar lengths, in random order, so that little is padded.

Shapes: N samples.
"""

import numpy as np

BATCHES_PER_BUCKET = 32
"""Size, in global batches, of the random sets of samples that are sorted by length. A larger one pads less and mixes less."""


def bucketed_order(lengths_N: np.ndarray, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of one epoch. Samples are shuffled, cut into sets of BATCHES_PER_BUCKET batches and sorted by length in each; then
    the batches are shuffled. A last batch that is not full stays at the end, where it is not used. Samples of one length are in random
    order. Shapes: int64 (N,)."""
    shuffled_N = rng.permutation(len(lengths_N))
    size = batch_size * BATCHES_PER_BUCKET
    parts = [shuffled_N[start : start + size] for start in range(0, len(shuffled_N), size)]
    sorted_N = np.concatenate([part[np.argsort(lengths_N[part], kind="stable")] for part in parts]) if parts else shuffled_N
    rest = len(sorted_N) % batch_size
    left_out = rng.choice(len(sorted_N), rest, replace=False) if rest else np.empty(0, dtype=np.int64)
    kept_N = np.delete(sorted_N, left_out)
    batches = rng.permutation(kept_N.reshape(-1, batch_size)).ravel()
    return np.concatenate([batches, sorted_N[np.sort(left_out)]])
