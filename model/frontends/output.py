"""What every front-end is, and what it gives the encoder. Knows no modality.

Shapes: B batch, S sequence (prefix tokens first), N positions of the sample itself, D hidden, H local heads, L 1 or the number of blocks.
"""

from typing import NamedTuple

from torch import Tensor, nn

from model.config import Shares


class FrontendOutput(NamedTuple):
    """Encoder input (B, S, D), and two things that not every front-end has."""

    x_BSD: Tensor
    bias_LHSS: Tensor | None = None
    """Added to the attention logits: one bias for all blocks (L = 1) or one for each."""
    features_BND: Tensor | None = None
    """The embedded raw input before any mask, detached: what a teacher that shares the student's embedding reads."""


class Frontend(nn.Module):
    """Raw input -> tokens. forward takes (inputs, mask, padding mask, features in place of the inputs or None) and returns a
    FrontendOutput; docs/add-a-modality.md shows one being written."""

    num_prefix_tokens: int = 0
    """Positions in front of the sample's own that are attended to and carry no target (CLS)."""

    def shared_parameters(self, shares: Shares) -> set[str]:
        """Names of the parameters that a teacher with this `shares` copies instead of averaging."""
        raise NotImplementedError
