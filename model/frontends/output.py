"""The interface of every front-end, and its output. No modality here.

Shapes: B batch, S sequence (prefix tokens first), N positions of the sample itself, D hidden, H local heads, L 1 or the number of blocks.
"""

from typing import NamedTuple

from torch import Tensor, nn

from model.config import Shares


class FrontendOutput(NamedTuple):
    """What a front-end returns: the encoder's input (batch, sequence, channels). Some front-ends also return an attention bias or the
    embedded input before masking; others have None there."""

    x_BSD: Tensor
    bias_LHSS: Tensor | None = None
    """Added to the attention logits: one bias for all blocks (L = 1) or one for each."""
    features_BND: Tensor | None = None
    """The embedded input before masking, without gradient, (batch, positions, channels). A teacher that shares the student's embedding
    reads it."""
    segment_BS: Tensor | None = None
    """Number of each position's sample in its row (Segments), if rows hold several samples."""


class Frontend(nn.Module):
    """A module that turns raw input into embedded tokens. forward(inputs, mask, padding mask, features in place of the inputs or None)
    returns a FrontendOutput. docs/add-a-modality.md shows how to write one."""

    num_prefix_tokens: int = 0
    """How many positions, such as CLS, stand before those of the sample. They take part in the attention and have no target."""
    freezes_features: bool = False
    """True: the parameters of the config's raw_parts get no gradient."""

    def shared_parameters(self, shares: Shares) -> set[str]:
        """Return the names of the front-end's parameters that a teacher copies from the student; all others are averaged. `shares` is
        the setting teacher.shares. An empty set if it is "nothing"."""
        raise NotImplementedError
