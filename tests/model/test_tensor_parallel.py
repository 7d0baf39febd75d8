"""Megatron's layers with our initial values: slices of one matrix at any TP size, and flags that the gradient norm reads."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from model.config import ProductLibrary
from model.init import Init
from model.parallel import init_parallel
from model.products import use_products
from model.tensor_parallel import ColumnLinear, MatrixInit, QueryValueBias, RowLinear, TokenEmbedding
from tests.distributed import run_distributed
from tests.model.reference import random_x


def build(tp_size: int) -> dict[str, tuple[torch.Tensor, int | None]]:
    """Return this rank's slices and the dimension of each split."""
    parallel, init = init_parallel(tp_size, "cpu"), Init(5)
    layers = {
        "column": ColumnLinear(6, 8, init.at("column"), parallel, matrix_init=MatrixInit(0.02)),
        "row": RowLinear(8, 6, init.at("row"), parallel, matrix_init=MatrixInit(None)),
        "unbiased": ColumnLinear(6, 8, init.at("unbiased"), parallel, matrix_init=MatrixInit(0.02, truncated=True, scale=0.5), bias=False),
        "truncated": RowLinear(8, 6, init.at("truncated"), parallel, matrix_init=MatrixInit(None, truncated=True)),
        "biases": QueryValueBias(24, 6, parallel),
        "tokens": TokenEmbedding(128, 6, init.at("tokens"), 0.1, parallel, zero_rows=[1, 100, 127]),
    }
    return {
        f"{layer}.{name}": (parameter.detach(), parameter.partition_dim if getattr(parameter, "tensor_model_parallel", False) else None)
        for layer, module in layers.items()
        for name, parameter in module.named_parameters()
    }


def test_slices_of_two_ranks_together_are_the_layer_of_one() -> None:
    whole, halves = run_distributed(build, 1, 1)[0], run_distributed(build, 2, 2)
    assert {name: dim for name, (_, dim) in whole.items()} == {
        **{"column.weight": 0, "column.bias": 0, "row.weight": 1, "row.bias": None, "tokens.weight": 0},
        **{"unbiased.weight": 0, "truncated.weight": 1, "truncated.bias": None, "biases.weight": 0},
    }
    for name, (tensor, dim) in whole.items():
        parts = [half[name][0] for half in halves]
        assert torch.equal(parts[0] if dim is None else torch.cat(parts, dim), tensor), name


def test_the_std_is_that_of_the_whole_matrix_and_zero_rows_are_zero() -> None:
    layers = run_distributed(build, 1, 1)[0]
    tokens, row = layers["tokens.weight"][0], layers["row.weight"][0]
    assert (~tokens.any(dim=1)).nonzero()[:, 0].tolist() == [1, 100, 127]
    assert abs(float(row.std()) * 8**0.5 - 1) < 0.4 and not layers["row.bias"][0].any() and not layers["column.bias"][0].any()


def test_initial_values_are_cut_at_one_std_and_then_scaled() -> None:
    layers = run_distributed(build, 1, 1)[0]
    assert 0.009 < float(layers["unbiased.weight"][0].abs().max()) <= 0.02 * 0.5
    assert 0.9 < float(layers["truncated.weight"][0].abs().max()) * 8**0.5 <= 1 + 1e-6


def biased(tp_size: int) -> torch.Tensor:
    """Return this rank's slice of a fused projection (1 position, head, q/k/v, width) of zeros after the biases of 4 heads of width 6."""
    parallel = init_parallel(tp_size, "cpu")
    module = QueryValueBias(24, 6, parallel)
    whole_H2K = torch.arange(1.0, 49.0).view(4, 2, 6)
    module.weight.data.copy_(whole_H2K.chunk(tp_size)[parallel.tp_rank])
    return module(torch.zeros(1, 72 // tp_size)).detach()


def test_query_and_value_biases_stay_with_their_heads_and_keys_get_none() -> None:
    whole = run_distributed(biased, 1, 1)[0].view(4, 3, 6)
    assert whole[:, 0].tolist() == torch.arange(1.0, 49.0).view(4, 2, 6)[:, 0].tolist()
    assert whole[:, 2].tolist() == torch.arange(1.0, 49.0).view(4, 2, 6)[:, 1].tolist()
    assert not whole[:, 1].any()
    halves = run_distributed(biased, 2, 2)
    assert torch.equal(torch.cat([half.view(2, 3, 6) for half in halves]), whole)


def computed(tp_size: int, products: ProductLibrary) -> list[torch.Tensor]:
    """Return the output of a split layer and its gradient of the input, both whole on each rank."""
    parallel, init = init_parallel(tp_size, "cpu"), Init(5)
    first = ColumnLinear(6, 8, init.at("column"), parallel, matrix_init=MatrixInit(None))
    second = RowLinear(8, 6, init.at("row"), parallel, matrix_init=MatrixInit(None))
    use_products(torch.nn.Sequential(first, second), products)
    x_SBD = random_x(3, 2, D=6).requires_grad_()
    out_SBD = second(first(x_SBD)[0].square())[0]
    return [out_SBD.detach(), *torch.autograd.grad(out_SBD.square().sum(), [x_SBD])]


@pytest.mark.parametrize("products", ["mm", "onednn", "mixed"])
def test_two_ranks_compute_output_and_gradient_of_one_with_each_library(products: ProductLibrary) -> None:
    (whole,), halves = run_distributed(computed, 1, 1, "mm"), run_distributed(computed, 2, 2, products)
    for half in halves:
        torch.testing.assert_close(half, whole)


class Kernels(TorchDispatchMode):
    """Collects the names of the kernels that torch calls."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, kernel: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        self.names.append(kernel.overloadpacket.__name__)
        return kernel(*args, **kwargs or {})


def called(layer: Callable[..., Any], x: torch.Tensor) -> list[str]:
    """Return the kernels of a forward that compute something."""
    with Kernels() as kernels:
        layer(x)
    return [name for name in kernels.names if name not in ("view", "t", "detach", "_unsafe_view")]


def forward_of_one_rank() -> None:
    """Compare layers of random biases with torch's linear."""
    parallel, init = init_parallel(1, "cpu"), Init(5)
    x_SBD = random_x(3, 2, D=6)
    for name, layer in (
        ("column", ColumnLinear(6, 8, init.at("column"), parallel, matrix_init=MatrixInit(None))),
        ("row", RowLinear(6, 8, init.at("row"), parallel, matrix_init=MatrixInit(None))),
    ):
        layer.bias.data.normal_(generator=torch.Generator().manual_seed(1))
        out_SBD, to_add = layer(x_SBD)
        assert to_add is None and torch.equal(out_SBD, F.linear(x_SBD, layer.weight, layer.bias)), name
        assert called(layer, x_SBD) == ["addmm"], name


def test_one_rank_adds_the_bias_in_the_product() -> None:
    run_distributed(forward_of_one_rank, 1)
