"""FLOPs of the forward and the backward of parts of a network, and of linear layers. Torch-free arithmetic. The counts of the blocks are in
model/config.py, those of the front-ends in model/frontends/config.py; the sum over a recipe's networks is in recipes/plan/flops.py.

Only matrix products and convolutions count, as in torch.utils.flop_counter. A multiply-add is two FLOPs. The backward of a product has two
products of the same size: the gradient of its input and that of its weights.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class PassFlops(NamedTuple):
    """FLOPs of the forward and of the backward of one part."""

    forward: float = 0.0
    backward: float = 0.0


class FrontendFlops(NamedTuple):
    """FLOPs of the forward of a front-end on one sample, divided by what else must compute them."""

    raw: float = 0.0
    """The product that reads the raw input. Its backward has no gradient of its input."""
    inner: float = 0.0
    """The other products of FrontendConfig.raw_parts."""
    features: float = 0.0
    """The products after raw_parts that make the embedded input."""
    positions: float = 0.0
    """The products that read the embedded input. A teacher that shares the embedding (teacher.shares) computes these alone."""

    @property
    def forward(self) -> float:
        """FLOPs of the whole forward."""
        return sum(self)

    def backward(self, *, freezes_features: bool) -> float:
        """Return the FLOPs of the backward. `freezes_features`: the parameters of raw_parts get no gradient."""
        return 2 * (self.features + self.positions) + (0.0 if freezes_features else self.raw + 2 * self.inner)


def linear_flops(widths: Sequence[int], num_vectors: float, *, needs_input_gradient: bool = True) -> PassFlops:
    """Return the FLOPs of linear layers one after another on `num_vectors` vectors. `widths`: channels before and after each layer.
    `needs_input_gradient`: something before the first layer is trained."""
    layers = [2 * num_vectors * a * b for a, b in pairwise(widths)]
    return PassFlops(sum(layers), 2 * sum(layers) - (0.0 if needs_input_gradient else sum(layers[:1])))
