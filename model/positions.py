"""Relative positions as a bias on the attention logits. Absolute positions are in the front-ends that use them.

Shapes: H local heads, S sequence, R offsets (2 * max_positions - 1), N patches of a square grid.
"""

import math

import torch
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from torch import Tensor, nn

from model.parallel import Parallel
from model.sums import summable


def alibi_slopes(num_heads: int) -> list[float]:
    """Return ALiBi's slope for each attention head. For n heads, a power of two: 2^(-8/n), 2^(-16/n), ... Otherwise: the slopes of the
    next lower power, then every other slope of the next higher power. Source: Press et al. 2022 (ALiBi), section 3."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    if power < num_heads:
        slopes += alibi_slopes(2 * power)[0::2][: num_heads - power]
    return slopes


class RelativeBias(nn.Module):
    """A learned bias on the attention logits for each head and offset j - i (query i, key j), shared by all blocks. It starts as
    symmetric ALiBi: -slope * |j - i|. Heads are split over the tensor-parallel group as in the attention."""

    def __init__(self, num_heads: int, max_positions: int, parallel: Parallel) -> None:
        super().__init__()
        local = num_heads // parallel.tp_size
        self.max_positions = max_positions
        self.weight = nn.Parameter(torch.empty(local, 2 * max_positions - 1))
        # Megatron's flags, which DeepSpeed's gradient norm and our checkpoints read
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=0, stride=1)
        slopes_H = torch.tensor(alibi_slopes(num_heads)[parallel.tp_rank * local :][:local], device=self.weight.device)
        offsets_R = torch.arange(1 - max_positions, max_positions, device=self.weight.device)
        self.weight.data.copy_(-slopes_H[:, None] * offsets_R.abs())

    def forward(self, S: int) -> Tensor:
        """Return the bias for a sequence of S positions: entry (h, i, j) is head h's bias for the offset j - i. S is at most
        max_positions.
        Shapes: (local heads, S, S)."""
        middle = self.max_positions - 1
        window = summable(self.weight)[:, middle - (S - 1) : middle + S]
        columns_S = torch.arange(S, device=window.device)
        index_SS = columns_S[None, :] - columns_S[:, None] + (S - 1)
        return window[:, index_SS].to(self.weight.dtype)


class PatchBias(nn.Module):
    """A learned bias on the attention logits for each head and offset (down, right) from key to query patch, for a square grid with the
    CLS position in front. It starts at 0.

    Rows of the table: (2 * grid - 1)^2 offsets, then CLS -> patch, patch -> CLS, CLS -> CLS (query -> key). Heads are split over the TP
    group. Source: BEiT modeling_finetune.py RelativePositionBias.
    """

    def __init__(self, num_heads: int, grid: int, parallel: Parallel) -> None:
        super().__init__()
        self.grid = grid
        self.weight = nn.Parameter(torch.zeros(num_heads // parallel.tp_size, (2 * grid - 1) ** 2 + 3))
        set_tensor_model_parallel_attributes(self.weight, is_parallel=True, dim=0, stride=1)

    def forward(self) -> Tensor:
        """Return the bias on the logits of each query and key. Position 0 is the CLS. Shapes: (local heads, S, S) with S = grid^2 + 1."""
        return summable(self.weight)[:, patch_offset_rows(self.grid, self.weight.device)].to(self.weight.dtype)


def patch_offset_rows(grid: int, device: torch.device) -> Tensor:
    """Return, for each pair (query, key) of positions, which row of PatchBias's table is its bias: int (S, S) with S = grid^2 + 1. It is
    computed at every call (a tenth of a millisecond for 14 x 14), so that there is no buffer to shard, save or move."""
    patches_N = torch.arange(grid * grid, device=device)
    down_N, right_N = patches_N // grid, patches_N % grid
    down_NN, right_NN = (along_N[:, None] - along_N + grid - 1 for along_N in (down_N, right_N))
    num_offsets = (2 * grid - 1) ** 2
    rows_SS = torch.full((grid * grid + 1, grid * grid + 1), num_offsets, device=device)
    rows_SS[:, 0] = num_offsets + 1
    rows_SS[0, 0].fill_(num_offsets + 2)  # an assignment would copy the number from the host and wait for the device
    rows_SS[1:, 1:] = down_NN * (2 * grid - 1) + right_NN
    return rows_SS
