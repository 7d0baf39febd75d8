"""FLOPs of linear layers compared with torch's count, and the backward of a front-end."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.flops import FrontendFlops, PassFlops, linear_flops


@pytest.mark.parametrize("widths", [(5,), (5, 7), (5, 7, 3)])
@pytest.mark.parametrize("needs_input_gradient", [True, False])
def test_linear_layers_cost_what_torch_counts(widths: tuple[int, ...], needs_input_gradient: bool) -> None:
    layers = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))
    inputs = torch.zeros(11, 5, requires_grad=needs_input_gradient)
    with FlopCounterMode(display=False) as counter:
        outputs = layers(inputs)
        forward = counter.get_total_flops()
        if outputs.requires_grad:
            outputs.sum().backward()
        both = counter.get_total_flops()
    assert linear_flops(widths, 11, needs_input_gradient=needs_input_gradient) == (forward, both - forward)


def test_raw_inputs_get_no_gradient_and_frozen_parts_have_no_backward() -> None:
    flops = FrontendFlops(raw=1, inner=10, features=100, positions=1000)
    assert flops.forward == 1111
    assert flops.backward(freezes_features=False) == 1 + 2 * 1110
    assert flops.backward(freezes_features=True) == 2 * 1100
    assert FrontendFlops().forward == 0 and PassFlops() == (0, 0)
