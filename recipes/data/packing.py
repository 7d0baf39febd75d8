"""Computes which tokens are held out and which tokens make up a sample, as arithmetic on token offsets. Reads and writes no files.

Shapes: P paragraphs, D documents, R ranges, N samples. A range or sample is a row (start, stop) or (start, length) in tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Literal

import numpy as np

from recipes.errors import ConfigError

STRETCH_TOKENS = 1 << 14
"""Maximum size of a stretch, the range of text that is held out as a whole. It is small enough to hold out a part of one long book, and
large enough to keep context."""
HELDOUT_SEED = 20220207  # fixed: the held-out text is the same for every run.seed
Split = Literal["train", "valid"]


@dataclass(frozen=True)
class Boundaries:
    """Ends of all paragraphs and documents of the corpus, as ascending token offsets. Each array ends with the number of tokens,
    or is empty if there is no text."""

    paragraph_ends: np.ndarray
    document_ends: np.ndarray

    @property
    def num_tokens(self) -> int:
        """Number of tokens in the whole corpus."""
        return int(self.document_ends[-1]) if len(self.document_ends) else 0


def build_samples(bounds: Boundaries, *, sequence_length: int, break_mode: str, heldout_fraction: float) -> dict[Split, np.ndarray]:
    """Return the samples of both splits as rows (start, length), with length <= sequence_length - 1 (`<s>` is added later).

    break_mode none: each unbroken range of a split is cut every sequence_length - 1 tokens. An incomplete rest is dropped.
    break_mode complete_doc: a sample takes whole paragraphs of one document as long as they fit. A longer paragraph is cut into pieces.
    No sample contains tokens of both splits.

    Raises: ConfigError if a split has no samples; with heldout_fraction 0, valid may have none.
    Source: fairseq's token_block_dataset (`none`, `complete_doc`).
    """
    length = sequence_length - 1
    stretches_R2 = _stretches(bounds, length, heldout_fraction)
    heldout_R = _choose_heldout(stretches_R2, length, heldout_fraction)
    samples: dict[Split, np.ndarray] = {}
    for split, chosen_R in (("train", ~heldout_R), ("valid", heldout_R)):
        ranges_R2 = _merge_neighbours(stretches_R2, chosen_R)
        samples[split] = _cut_blocks(ranges_R2, length) if break_mode == "none" else _pack_documents(ranges_R2, bounds, length)  # type: ignore[index]
    _check_not_empty(samples, bounds.num_tokens, sequence_length, heldout_fraction)
    return samples


def _stretches(bounds: Boundaries, length: int, heldout_fraction: float) -> np.ndarray:
    """Cut the corpus into ranges (start, stop) of at most 16,384 tokens (STRETCH_TOKENS), fewer if the text is small. A range ends at
    the last end of a document within this size; if there is none, at the last end of a paragraph; if there is none, at the full size.
    Shapes: (R, 2)."""
    size = int(min(STRETCH_TOKENS, max(2 * length, bounds.num_tokens * heldout_fraction)))
    ends = (bounds.document_ends, bounds.paragraph_ends)
    return _rows(_greedy(ends, 0, bounds.num_tokens, size))


def _choose_heldout(stretches_R2: np.ndarray, length: int, heldout_fraction: float) -> np.ndarray:
    """Return a bool per range: True if it is held out. Ranges of at least `length` tokens are held out in a fixed random order until
    their tokens reach heldout_fraction of all tokens. No range is held out if heldout_fraction is 0. Shapes: (R,)."""
    chosen_R = np.zeros(len(stretches_R2), dtype=bool)
    if heldout_fraction == 0:
        return chosen_R
    sizes_R = stretches_R2[:, 1] - stretches_R2[:, 0]
    hash_R = np.random.Generator(np.random.Philox(HELDOUT_SEED)).random(len(sizes_R))
    order = np.argsort(hash_R)
    order = order[sizes_R[order] >= length]  # a shorter stretch might contain no sample at all
    before = np.cumsum(sizes_R[order]) - sizes_R[order]
    chosen_R[order[before < heldout_fraction * sizes_R.sum()]] = True
    return chosen_R


def _merge_neighbours(stretches_R2: np.ndarray, chosen_R: np.ndarray) -> np.ndarray:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], chosen_R.astype(np.int8), [0]))))
    if not len(edges):
        return np.empty((0, 2), dtype=np.int64)
    return np.stack([stretches_R2[edges[0::2], 0], stretches_R2[edges[1::2] - 1, 1]], axis=1)


def _cut_blocks(ranges_R2: np.ndarray, length: int) -> np.ndarray:
    starts = [np.arange(start, stop - length + 1, length) for start, stop in ranges_R2]
    starts_N = np.concatenate([np.empty(0, dtype=np.int64), *starts])
    return np.stack([starts_N, np.full_like(starts_N, length)], axis=1)


def _pack_documents(ranges_R2: np.ndarray, bounds: Boundaries, length: int) -> np.ndarray:
    kinds = (bounds.paragraph_ends,)
    pieces = (sample for piece in _document_pieces(ranges_R2, bounds) for sample in _greedy(kinds, *piece, length))
    samples_N2 = _rows(pieces)
    samples_N2[:, 1] -= samples_N2[:, 0]
    return samples_N2


def _document_pieces(ranges_R2: np.ndarray, bounds: Boundaries) -> Iterator[tuple[int, int]]:
    """Yield the token ranges as (start, stop), each cut at the ends of documents inside it."""
    for start, stop in ranges_R2.tolist():
        first, last = np.searchsorted(bounds.document_ends, (start, stop), side="right")
        inner = bounds.document_ends[first:last].tolist()
        yield from pairwise(sorted({start, *inner, stop}))


def _greedy(ends: Sequence[np.ndarray], start: int, stop: int, limit: int) -> Iterator[tuple[int, int]]:
    """Cut the tokens from start to stop into pieces of at most `limit` tokens, and yield each as (start, stop). `ends`: arrays of preferred
    cuts, the best first. A piece ends at the last cut in reach, taken from the first array that has one in reach. If no array has one, the
    piece has `limit` tokens."""
    while start < stop:
        cut = stop if stop - start <= limit else start + limit
        if cut < stop:
            cut = next((end for kind in ends if (end := _last_at_most(kind, cut)) > start), cut)
        yield start, cut
        start = cut


def _rows(pairs: Iterator[tuple[int, int]]) -> np.ndarray:
    """Return the pairs as the rows of an int64 array, without building a list of millions of tuples. Shapes: (number of pairs, 2)."""
    return np.fromiter(chain.from_iterable(pairs), dtype=np.int64).reshape(-1, 2)


def _last_at_most(ends: np.ndarray, position: int) -> int:
    index = int(ends.searchsorted(position, side="right"))
    return int(ends[index - 1]) if index else 0


def _check_not_empty(samples: dict[Split, np.ndarray], num_tokens: int, sequence_length: int, heldout_fraction: float) -> None:
    for split in ("train", "valid") if heldout_fraction else ("train",):
        if not len(samples[split]):
            raise ConfigError(
                f"the text is too short: {num_tokens} tokens give no {split} sample of {sequence_length} with data.heldout_fraction "
                f"{heldout_fraction:g}; use more text, a smaller data.sequence_length or --set data.heldout_fraction=0"
            )
