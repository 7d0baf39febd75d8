"""Text whose rows hold several samples each, so that little is padding. Samples of a row do not attend to each other, and positions start
again at each. Which samples share a row is decided in rows.py; how a sample is made and masked, in text.py.

Shapes: B batch, S sequence.
"""

from dataclasses import replace

import numpy as np
import torch

from model.batch import Batch, Segments
from recipes.data.media import BadItem
from recipes.data.order import Position
from recipes.data.rows import RowPlan
from recipes.data.text import TextDataset, TextExample, collate_text
from recipes.data.tokenizer import PAD

ROWS = 1
"""Spawn key of the generator that draws rows, which separates it from those of the masks."""


class PackedTextDataset:
    """The rows of one split, addressed by index. The result of example() depends only on (seed, epoch, index). A sample has the masks that
    it has in a row of its own. Every epoch has each sample once and the same number of rows."""

    def __init__(self, samples: TextDataset) -> None:
        """`samples`: what is packed."""
        self.fingerprint, self.sequence_length = samples.fingerprint, samples.sequence_length
        self._samples = samples
        self._plan = RowPlan(samples.lengths, samples.sequence_length)
        self._drawn: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._plan)

    def order(self, rng: np.random.Generator) -> None:
        """Return None: all indices, shuffled."""

    def take_bad(self) -> list[BadItem]:
        """Return []: text that cannot be read stops the preparation."""
        return []

    def members(self, epoch: int, index: int) -> list[int]:
        """Return the indices of the samples that stand in row `index` in this epoch, in order."""
        drawn = self._drawn
        if drawn is None or drawn[0] != epoch:
            entropy = np.random.SeedSequence((*self._samples.entropy, epoch), spawn_key=(ROWS,))
            self._drawn = drawn = epoch, self._plan.draw(np.random.Generator(np.random.Philox(entropy)))
        return drawn[1][self._plan.places(index)].tolist()

    def example(self, epoch: int, index: int, group: tuple[int, ...] = ()) -> list[TextExample]:
        """Return the samples of row `index`, each with `<s>` before it and its mask of this epoch. `group` is ignored."""
        return [self._samples.example(epoch, member) for member in self.members(epoch, index)]

    def read_ahead(self, positions: list[Position]) -> None:
        """Let the system read the tokens of these rows in the background, all at once."""
        members = [position._replace(index=member) for position in positions for member in self.members(position.epoch, position.index)]
        self._samples.read_ahead(members)

    def collate(self, rows: list[list[TextExample]]) -> Batch:
        """Return the micro-batch of these rows, padded on the right to sequence_length. It always has a padding mask and segments."""
        return collate_rows(rows, self.sequence_length)


def collate_rows(rows: list[list[TextExample]], length: int) -> Batch:
    """Return the micro-batch in which each row is the concatenation of its samples, padded on the right to `length` tokens."""
    batch = collate_text([_joined(row) for row in rows], length, always_padded=True)
    segment_BS = np.full((len(rows), length), -1, dtype=np.int32)
    position_BS = np.zeros((len(rows), length), dtype=np.int64)
    for number, row in enumerate(rows):
        start = 0
        for segment, example in enumerate(row):
            keep_T = example.clean != PAD
            own = slice(start, start + len(keep_T))
            segment_BS[number, own] = np.where(keep_T, segment, -1)
            position_BS[number, own] = np.where(keep_T, np.cumsum(keep_T) - 1, 0)
            start = own.stop
    return replace(batch, segments=Segments(torch.from_numpy(segment_BS), torch.from_numpy(position_BS)))


def _joined(row: list[TextExample]) -> TextExample:
    clean, inputs, mask = zip(*((example.clean, example.inputs, example.mask) for example in row), strict=True)
    return TextExample(np.concatenate(clean), np.concatenate(inputs), np.concatenate(mask))
