"""What a front-end gives the encoder. Knows no modality.

Shapes: B batch, S sequence (prefix tokens first), N positions of the sample itself, D hidden, H local heads, L 1 or the number of blocks.
"""

from typing import NamedTuple

from torch import Tensor


class FrontendOutput(NamedTuple):
    """Encoder input (B, S, D), and two things that not every front-end has."""

    x_BSD: Tensor
    bias_LHSS: Tensor | None = None
    """Added to the attention logits: one bias for all blocks (L = 1) or one for each."""
    features_BND: Tensor | None = None
    """The embedded raw input before any mask, detached: what a teacher that shares the student's embedding reads."""
