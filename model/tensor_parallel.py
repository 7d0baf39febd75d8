"""Megatron's tensor-parallel layers, drawn from their names: each rank fills its slice and never holds the whole matrix.

Megatron's own CPU initialisation keeps three copies of a whole layer for a moment. Nothing of the forward is changed.
"""

import torch
from megatron.core import ModelParallelConfig
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from torch import Tensor, nn

from model.init import Init
from model.parallel import Parallel


def megatron_config() -> ModelParallelConfig:
    """What Megatron's layers need to know. Tensors are made by torch.empty, so zero.Init decides dtype and device; the
    values come from model/init.py."""
    return ModelParallelConfig(use_cpu_initialization=True, perform_initialization=False, gradient_accumulation_fusion=False)


def _keep(tensor: Tensor) -> Tensor:
    return tensor


def _fill(weight: nn.Parameter, init: Init, std: float | None, dim: int, parallel: Parallel) -> None:
    set_tensor_model_parallel_attributes(weight, is_parallel=True, dim=dim, stride=1)
    init.at("weight").fill_normal(weight.data, std, dim=dim, rank=parallel.tp_rank, size=parallel.tp_size)


class ColumnLinear(ColumnParallelLinear):
    """Output features split over the TP group and left split."""

    def __init__(self, in_features: int, out_features: int, init: Init, std: float | None, parallel: Parallel) -> None:
        super().__init__(
            in_features, out_features, config=megatron_config(), init_method=_keep, gather_output=False, tp_group=parallel.tp_group
        )
        _fill(self.weight, init, std, 0, parallel)
        nn.init.zeros_(self.bias)


class RowLinear(RowParallelLinear):
    """Input features split over the TP group; the outputs are summed, so every rank has them whole."""

    def __init__(self, in_features: int, out_features: int, init: Init, std: float | None, parallel: Parallel) -> None:
        super().__init__(
            in_features,
            out_features,
            config=megatron_config(),
            init_method=_keep,
            bias=True,
            input_is_parallel=True,
            skip_bias_add=False,
            tp_group=parallel.tp_group,
        )
        _fill(self.weight, init, std, 1, parallel)
        nn.init.zeros_(self.bias)


class TokenEmbedding(VocabParallelEmbedding):
    """Rows split over the TP group; the rows `zero_rows` start at 0."""

    def __init__(self, rows: int, hidden_size: int, init: Init, std: float, parallel: Parallel, *, zero_rows: list[int]) -> None:
        super().__init__(rows, hidden_size, init_method=_keep, config=megatron_config(), tp_group=parallel.tp_group)
        _fill(self.weight, init, std, 0, parallel)
        own = [row - self.vocab_start_index for row in zero_rows if self.vocab_start_index <= row < self.vocab_end_index]
        with torch.no_grad():
            self.weight.data[own] = 0
