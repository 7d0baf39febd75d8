"""Some positions of a micro-batch. The last block computes at these alone, if no loss reads the others.

Shapes: S sequence, B batch, M chosen positions, D channels.
"""

from typing import NamedTuple

from torch import Tensor


class PositionSubset(NamedTuple):
    """Some positions of tensors (S, B, ...). `index_M`: int64 (M,), the number s x batch_size + b for position s of sample b."""

    index_M: Tensor
    batch_size: int

    @staticmethod
    def of(index_M: Tensor, batch_size: int, length: int, num_prefix_tokens: int) -> "PositionSubset":
        """Build the subset from positions that are numbered over the micro-batch, sample after sample, without prefix tokens. `length`:
        positions of a sample without prefix tokens."""
        return PositionSubset((index_M % length + num_prefix_tokens) * batch_size + index_M // length, batch_size)

    def take(self, x_SBD: Tensor) -> Tensor:
        """Return x at these positions alone. Shapes: (S, B, D) -> (M, 1, D)."""
        return x_SBD.flatten(0, 1).index_select(0, self.index_M).unsqueeze(1)

    def spread(self, factor_1B1: Tensor) -> Tensor:
        """Return the number of each sample at each of its positions. Shapes: (1, B, 1) -> (M, 1, 1)."""
        return factor_1B1[0].index_select(0, self.index_M % self.batch_size).unsqueeze(1)
