"""Megatron's layers with our values: slices of one matrix at any TP size, flags that the gradient norm reads, nothing held twice."""

import torch

from model.init import Init
from model.parallel import init_parallel
from model.tensor_parallel import ColumnLinear, RowLinear, TokenEmbedding
from tests.distributed import run_distributed


def build(tp_size: int) -> dict[str, tuple[torch.Tensor, int | None]]:
    """This rank's slices and the dimension that each is cut along."""
    parallel, init = init_parallel(tp_size, "cpu"), Init(5)
    layers = {
        "column": ColumnLinear(6, 8, init.at("column"), 0.02, parallel),
        "row": RowLinear(8, 6, init.at("row"), None, parallel),
        "tokens": TokenEmbedding(128, 6, init.at("tokens"), 0.1, parallel, zero_rows=[1, 100, 127]),
    }
    return {
        f"{layer}.{name}": (parameter.detach(), parameter.partition_dim if getattr(parameter, "tensor_model_parallel", False) else None)
        for layer, module in layers.items()
        for name, parameter in module.named_parameters()
    }


def test_slices_of_two_ranks_put_together_are_the_layer_of_one() -> None:
    whole, halves = run_distributed(build, 1, 1)[0], run_distributed(build, 2, 2)
    assert {name: dim for name, (_, dim) in whole.items()} == {
        **{"column.weight": 0, "column.bias": 0, "row.weight": 1, "row.bias": None, "tokens.weight": 0},
    }
    for name, (tensor, dim) in whole.items():
        parts = [half[name][0] for half in halves]
        assert torch.equal(parts[0] if dim is None else torch.cat(parts, dim), tensor), name


def test_the_spread_is_that_of_the_whole_matrix_and_zero_rows_are_zero() -> None:
    layers = run_distributed(build, 1, 1)[0]
    tokens, row = layers["tokens.weight"][0], layers["row.weight"][0]
    assert (~tokens.any(dim=1)).nonzero()[:, 0].tolist() == [1, 100, 127]
    assert abs(float(row.std()) * 8**0.5 - 1) < 0.4 and not layers["row.bias"][0].any() and not layers["column.bias"][0].any()
