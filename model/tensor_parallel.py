"""Megatron's tensor-parallel layers with the initialisation of model/init.py: each rank fills its slice and never holds the whole
matrix. Megatron's own CPU initialisation holds three copies of a whole layer for a moment. Products, with the bias, are those of
model/products.py. The communication is Megatron's.
"""

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import ModelParallelConfig
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    reduce_from_tensor_model_parallel_region,
)
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from torch import Tensor, nn

from model.init import Init
from model.parallel import Parallel
from model.products import HasProducts, linear
from model.sums import embedding, sums_are_rounded


def megatron_config() -> ModelParallelConfig:
    """Return the settings of Megatron's layers: they allocate parameters by torch.empty without filling them, in torch's default
    dtype. DeepSpeed's zero.Init then decides the device; MatrixInit writes the values."""
    return ModelParallelConfig(
        use_cpu_initialization=True,
        perform_initialization=False,
        gradient_accumulation_fusion=False,
        params_dtype=torch.get_default_dtype(),
    )


def _keep(tensor: Tensor) -> Tensor:
    return tensor


class ChosenProducts(HasProducts):
    """Replaces the product of Megatron's linear layers by that of the library which the run has chosen. The product adds the bias.
    Megatron adds it in a kernel of its own: on an H200 this took 27 of 175 ms of an update."""

    weight: nn.Parameter
    bias: nn.Parameter

    def _forward_impl(self, input: Tensor, weight: Tensor, **settings: Any) -> Tensor:
        return linear(input, weight, settings["bias"], self.products, settings["tp_group"] if settings["allreduce_dgrad"] else None)


@dataclass(frozen=True)
class MatrixInit:
    """Initial values of a matrix that is split over the tensor-parallel group: normal, with mean 0 and `std` (None: 1/sqrt(columns of
    the whole matrix)). `truncated`: without values beyond one std. At the end, all values are multiplied by `scale`."""

    std: float | None
    truncated: bool = False
    scale: float = 1.0

    def fill(self, weight: nn.Parameter, init: Init, dim: int, parallel: Parallel) -> None:
        """Write the initial values of this rank's slice into `weight`, and mark it for Megatron as split along `dim`."""
        set_tensor_model_parallel_attributes(weight, is_parallel=True, dim=dim, stride=1)
        fill = init.at("weight").fill_truncated if self.truncated else init.at("weight").fill_normal
        fill(weight.data, self.std, scale=self.scale, dim=dim, rank=parallel.tp_rank, size=parallel.tp_size)


class ColumnLinear(ChosenProducts, ColumnParallelLinear):
    """A linear layer whose output features are split over the tensor-parallel group. Each rank returns only its own features."""

    def __init__(
        self, in_features: int, out_features: int, init: Init, parallel: Parallel, *, matrix_init: MatrixInit, bias: bool = True
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            config=megatron_config(),
            init_method=_keep,
            bias=bias,
            gather_output=False,
            tp_group=parallel.tp_group,
        )
        matrix_init.fill(self.weight, init, 0, parallel)
        if bias:
            nn.init.zeros_(self.bias)


class RowLinear(ChosenProducts, RowParallelLinear):
    """A linear layer whose input features are split over the tensor-parallel group. The ranks' partial outputs are added up, so each
    rank has the whole output."""

    input_size: int
    input_size_per_partition: int

    def __init__(self, in_features: int, out_features: int, init: Init, parallel: Parallel, *, matrix_init: MatrixInit) -> None:
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
        matrix_init.fill(self.weight, init, 1, parallel)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> tuple[Tensor, None]:
        """Return the output, and None in place of a bias that is still to add. Shapes: (..., input features of this rank) -> (..., all
        output features)."""
        if self.input_size_per_partition < self.input_size:
            return super().forward(input)  # the bias comes after the sum over ranks
        return self._forward_impl(input, self.weight, bias=self.bias, allreduce_dgrad=False), None


class TokenEmbedding(VocabParallelEmbedding):
    """A table of token embeddings whose rows are split over the tensor-parallel group. The rows with the numbers `zero_rows` start at 0,
    all others with normal values of standard deviation `std`."""

    def __init__(self, rows: int, hidden_size: int, init: Init, std: float, parallel: Parallel, *, zero_rows: list[int]) -> None:
        super().__init__(rows, hidden_size, init_method=_keep, config=megatron_config(), tp_group=parallel.tp_group)
        MatrixInit(std).fill(self.weight, init, 0, parallel)
        own = [row - self.vocab_start_index for row in zero_rows if self.vocab_start_index <= row < self.vocab_end_index]
        with torch.no_grad():
            self.weight.data[own] = 0

    def forward(self, ids_BS: Tensor) -> Tensor:
        """Return the embeddings of token ids. Megatron's forward, except that gradients are added up in float32 on a CPU too. Shapes:
        (batch, S) -> (batch, S, channels)."""
        if not sums_are_rounded(self.weight):
            return super().forward(ids_BS)
        elsewhere_BS = (ids_BS < self.vocab_start_index) | (ids_BS >= self.vocab_end_index)
        x_BSD = embedding((ids_BS - self.vocab_start_index).masked_fill(elsewhere_BS, 0), self.weight)
        return reduce_from_tensor_model_parallel_region(x_BSD.masked_fill(elsewhere_BS.unsqueeze(-1), 0.0), group=self.tp_group)


class QueryValueBias(nn.Module):
    """Learned biases of the attention's queries and values; keys have none (BEiT). Heads are split over the tensor-parallel group."""

    def __init__(self, hidden_size: int, head_width: int, parallel: Parallel) -> None:
        super().__init__()
        self.head_width = head_width
        self.weight = nn.Parameter(torch.zeros(hidden_size // parallel.tp_size // head_width, 2, head_width))
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=0, stride=1)

    def forward(self, qkv: Tensor) -> Tensor:
        """Add the biases to `qkv`, the output of the fused projection. Its last dimension is ordered (head, q/k/v, width). The shape
        stays."""
        query_HK, value_HK = self.weight.unbind(1)
        bias_H3K = torch.stack([query_HK, torch.zeros_like(query_HK), value_HK], dim=1)
        return qkv + bias_H3K.flatten()
