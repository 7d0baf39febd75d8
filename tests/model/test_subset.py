"""A block that computes at some positions alone: the same numbers there, and the same gradients."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.batch import Masks
from model.dropout import DropoutStream, DropPath
from model.init import Init
from model.layers import Block
from model.parallel import Parallel
from model.student import take_masked
from model.subset import PositionSubset
from tests.model.reference import bools, plain, random_x, stir


@given(B=st.integers(1, 4), N=st.integers(1, 6), prefix=st.integers(0, 2), data=st.data())
def test_a_subset_takes_the_masked_positions_behind_the_prefix_in_the_order_of_the_batch(B: int, N: int, prefix: int, data: Any) -> None:
    mask_BN = torch.tensor(data.draw(st.lists(st.booleans(), min_size=B * N, max_size=B * N)), dtype=torch.bool).view(B, N)
    index_M = Masks.of(mask_BN).masked_index_M
    x_SBD = torch.arange(float((N + prefix) * B * 2)).view(N + prefix, B, 2)
    taken_M1D = PositionSubset.of(index_M, B, N, prefix).take(x_SBD)
    assert taken_M1D.shape == (len(index_M), 1, 2)
    assert torch.equal(taken_M1D[:, 0], take_masked(x_SBD[prefix:].transpose(0, 1), index_M))


SUBSET = PositionSubset(torch.tensor([7, 0, 11]), 3)


@pytest.mark.parametrize("normalize_before", [False, True])
def test_a_block_at_some_positions_has_the_outputs_and_gradients_of_the_whole_block(parallel: Parallel, normalize_before: bool) -> None:
    block = Block(plain(normalize_before=normalize_before, layer_scale=0.5), Init(1), parallel, DropoutStream(), 1)
    stir(block)
    block.double()
    x_SBD = random_x(5, 3).double().requires_grad_()
    weights_M1D = torch.randn(3, 1, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def outputs_and_gradients(some: Tensor, ffn: Tensor) -> list[Tensor]:
        return [some, ffn, *torch.autograd.grad((some * weights_M1D).sum(), [x_SBD, *block.parameters()])]

    whole, some = block(x_SBD, None), block(x_SBD, None, SUBSET)
    expected = outputs_and_gradients(SUBSET.take(whole.block_SBD), SUBSET.take(whole.ffn_SBD))
    torch.testing.assert_close(outputs_and_gradients(some.block_SBD, some.ffn_SBD), expected, atol=1e-12, rtol=1e-9)


def test_drop_path_gives_each_position_the_factor_of_its_sample() -> None:
    path, x_SBD = DropPath(0.5, DropoutStream(seed=5), 1), torch.ones(5, 3, 2)
    whole_SBD = path(x_SBD)
    assert 0 < int((whole_SBD == 0).sum()) < whole_SBD.numel()
    assert torch.equal(path(SUBSET.take(x_SBD), SUBSET), SUBSET.take(whole_SBD))


def test_no_position_is_an_empty_result_with_gradients_of_zero(parallel: Parallel) -> None:
    block, x_SBD = Block(plain(), Init(1), parallel, DropoutStream(), 0), random_x(5, 3)
    none = PositionSubset.of(torch.nonzero(bools("00000").flatten())[:, 0], 3, 5, 0)
    block(x_SBD, None, none).block_SBD.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in block.parameters())
