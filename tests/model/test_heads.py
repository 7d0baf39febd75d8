"""The regression head: its widths, its activation, and no head at all."""

import pytest
import torch
import torch.nn.functional as F

from model.heads import MaskedHead
from model.init import Init
from tests.model.reference import plain, stir


@pytest.mark.parametrize(
    ("head_layers", "shapes"),
    [(0, []), (1, [(16, 16)]), (2, [(32, 16), (16, 32)]), (3, [(32, 16), (32, 32), (16, 32)])],
)
def test_head_widens_to_2d_and_ends_at_d(head_layers: int, shapes: list[tuple[int, int]]) -> None:
    head = MaskedHead(plain(head_layers=head_layers), Init(1))
    assert [tuple(layer.weight.shape) for layer in head.layers] == shapes
    assert all(layer.bias is not None for layer in head.layers)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_head_has_the_activation_between_its_layers_only(activation: str) -> None:
    head = MaskedHead(plain(head_layers=3, activation=activation), Init(1))
    stir(head)
    x_MD = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    act = F.gelu if activation == "gelu" else F.relu
    first, second, third = head.layers
    expected = act(act(x_MD @ first.weight.T + first.bias) @ second.weight.T + second.bias) @ third.weight.T + third.bias
    torch.testing.assert_close(head(x_MD), expected)
    one = MaskedHead(plain(head_layers=1, activation=activation), Init(1))
    torch.testing.assert_close(one(x_MD), x_MD @ one.layers[0].weight.T)


def test_no_head_is_the_identity() -> None:
    head, x_MD = MaskedHead(plain(head_layers=0), Init(1)), torch.ones(3, 16)
    assert head(x_MD) is x_MD and not list(head.parameters())
