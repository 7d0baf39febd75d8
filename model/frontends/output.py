"""The interface of every front-end, and its output. No modality here.

Shapes: B batch, S sequence (prefix tokens first), N positions of the sample itself, D hidden, H local heads, L 1 or the number of blocks.
"""

from typing import NamedTuple

from torch import Tensor, nn

from model.config import Shares


class FrontendOutput(NamedTuple):
    """Encoder input (B, S, D), and two outputs that only some front-ends have."""

    x_BSD: Tensor
    bias_LHSS: Tensor | None = None
    """Added to the attention logits: one bias for all blocks (L = 1) or one for each."""
    features_BND: Tensor | None = None
    """The embedded raw input before any mask, detached. A teacher that shares the student's embedding reads it."""


class Frontend(nn.Module):
    """Raw input -> tokens. forward takes (inputs, mask, padding mask, features in place of the inputs or None) and returns a
    FrontendOutput. docs/add-a-modality.md shows how to write one."""

    num_prefix_tokens: int = 0
    """Positions in front of the sample's own. They are attended to and have no target (CLS)."""

    def shared_parameters(self, shares: Shares) -> set[str]:
        """Names of the parameters that a teacher with this `shares` copies instead of averaging."""
        raise NotImplementedError
