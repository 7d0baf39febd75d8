"""The data set of labelled texts: reads samples of a prepared folder and collates them into a Batch with targets.

Shapes: N samples, T tokens of one sample.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.batch import Batch
from recipes.data.batch_targets import collate_targets
from recipes.data.labelled_folder import load_arrays_of, load_info
from recipes.data.length_buckets import bucketed_order
from recipes.data.media import BadItem
from recipes.data.text import TextExample, collate_text


@dataclass(frozen=True)
class LabelledTextExample:
    """One sample: its number in the split, and its tokens."""

    index: int
    tokens: np.ndarray
    """int64 (T,)."""


class LabelledTextDataset:
    """The samples of one split, addressed by index. Nothing about a sample is random."""

    def __init__(self, folder: Path, split: str, *, batch_size: int) -> None:
        """`batch_size`: samples of a global batch, which have similar lengths. Raises: ConfigError if the folder is damaged."""
        self.fingerprint = load_info(folder).fingerprint
        self._arrays = load_arrays_of(folder, split)
        self._tokens, self._ends_N = self._arrays["tokens"], self._arrays["ends"]
        self._starts_N = np.concatenate([[0], self._ends_N[:-1]])
        self._batch_size = batch_size

    def __len__(self) -> int:
        return len(self._ends_N)

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Return the indices of one epoch, in batches of similar length."""
        return bucketed_order(self._ends_N - self._starts_N, self._batch_size, rng)

    def take_bad(self) -> list[BadItem]:
        """Return []: text that cannot be read stops the preparation."""
        return []

    def example(self, epoch: int, index: int, group: tuple[int, ...] = ()) -> LabelledTextExample:
        """Return sample `index`. `epoch` and `group` are ignored."""
        return LabelledTextExample(index, self._tokens[self._starts_N[index] : self._ends_N[index]].astype(np.int64))

    def collate(self, examples: list[LabelledTextExample]) -> Batch:
        """Return the micro-batch of these samples, padded on the right to the longest. It always has a padding mask, so that the same
        kernels run however the global batch is divided."""
        texts = [TextExample(one.tokens, one.tokens, np.zeros(len(one.tokens), dtype=bool)) for one in examples]
        return collate_targets(collate_text(texts, always_padded=True), self._arrays, [one.index for one in examples])
