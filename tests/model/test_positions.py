"""ALiBi slopes, the relative bias (symmetric at the start, a function of head and offset, whatever the length) and the patch bias
(a function of head and offset on the grid, with three rows for CLS)."""

import pytest
import torch

from model.parallel import Parallel, init_parallel
from model.positions import PatchBias, RelativeBias, alibi_slopes, patch_offset_rows
from tests.distributed import run_distributed


@pytest.mark.parametrize(
    ("num_heads", "exponents"),
    [
        (1, [8]),
        (4, [2, 4, 6, 8]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
        (16, [0.5 * i for i in range(1, 17)]),
    ],
)
def test_slopes_are_the_published_ones(num_heads: int, exponents: list[float]) -> None:
    assert alibi_slopes(num_heads) == pytest.approx([2**-e for e in exponents], rel=1e-12)


def test_the_initial_bias_is_minus_slope_times_distance(parallel: Parallel) -> None:
    bias_HSS = RelativeBias(4, 10, parallel)(6)
    assert bias_HSS.shape == (4, 6, 6)
    for h, slope in enumerate([1 / 4, 1 / 16, 1 / 64, 1 / 256]):
        for i in range(6):
            for j in range(6):
                assert float(bias_HSS[h, i, j]) == pytest.approx(-slope * abs(i - j), abs=1e-7)
    torch.testing.assert_close(bias_HSS, bias_HSS.transpose(1, 2), atol=0, rtol=0)


def distinct(parallel: Parallel, max_positions: int = 10) -> RelativeBias:
    bias = RelativeBias(4, max_positions, parallel)
    bias.weight.data = torch.arange(bias.weight.numel(), dtype=torch.float32).view_as(bias.weight)
    return bias


@pytest.mark.parametrize("S", [1, 2, 7, 10])
def test_bias_depends_on_head_and_offset_only(parallel: Parallel, S: int) -> None:
    bias = distinct(parallel)
    bias_HSS = bias(S)
    for i in range(S):
        for j in range(S):
            torch.testing.assert_close(bias_HSS[:, i, j], bias.weight[:, 9 + j - i], atol=0, rtol=0)


@pytest.mark.parametrize("S", [1, 4, 9])
def test_a_shorter_sequence_is_a_window_of_a_longer_one(parallel: Parallel, S: int) -> None:
    bias = distinct(parallel)
    torch.testing.assert_close(bias(S), bias(10)[:, :S, :S], atol=0, rtol=0)
    torch.testing.assert_close(bias(S), bias(10)[:, 10 - S :, 10 - S :], atol=0, rtol=0)


def test_gradient_of_an_offset_is_the_sum_over_its_diagonal(parallel: Parallel) -> None:
    bias = distinct(parallel)
    bias(4).sum().backward()
    assert bias.weight.grad is not None
    expected = torch.zeros(19)
    expected[9 - 3 : 9 + 4] = torch.tensor([1.0, 2, 3, 4, 3, 2, 1])
    torch.testing.assert_close(bias.weight.grad, expected.expand(4, -1))


def test_the_table_is_marked_as_split(parallel: Parallel) -> None:
    weight = RelativeBias(4, 10, parallel).weight
    assert (weight.tensor_model_parallel, weight.partition_dim) == (True, 0)  # type: ignore[attr-defined]


def numbered(parallel: Parallel, grid: int, num_heads: int = 4) -> PatchBias:
    """Return a bias whose row r of head h has the value 10000 h + r, for any split."""
    bias = PatchBias(num_heads, grid, parallel)
    heads_H = torch.arange(num_heads).chunk(parallel.tp_size)[parallel.tp_rank]
    bias.weight.data = 10000.0 * heads_H[:, None] + torch.arange(bias.weight.shape[1])
    return bias


@pytest.mark.parametrize(("grid", "rows"), [(1, 4), (8, 228), (14, 732)])
def test_patch_table_has_the_published_rows_and_the_initial_value_0(parallel: Parallel, grid: int, rows: int) -> None:
    weight = PatchBias(4, grid, parallel).weight
    assert weight.shape == (4, rows) and not weight.any()


@pytest.mark.parametrize("grid", [1, 2, 5])
def test_patch_bias_is_the_row_of_the_offset_and_three_rows_for_cls(parallel: Parallel, grid: int) -> None:
    bias_HSS = numbered(parallel, grid)()
    S, offsets = grid * grid + 1, (2 * grid - 1) ** 2
    assert bias_HSS.shape == (4, S, S)
    for query in range(S):
        for key in range(S):
            if query and key:
                (q_row, q_column), (k_row, k_column) = divmod(query - 1, grid), divmod(key - 1, grid)
                row = (q_row - k_row + grid - 1) * (2 * grid - 1) + q_column - k_column + grid - 1
            else:
                row = offsets + (0 if key else 1 if query else 2)
            assert bias_HSS[:, query, key].tolist() == [row, 10000 + row, 20000 + row, 30000 + row]


def test_every_row_of_the_patch_table_is_read_and_gets_its_gradient(parallel: Parallel) -> None:
    bias = PatchBias(2, 3, parallel)
    bias().sum().backward()
    assert bias.weight.grad is not None
    pairs_R = torch.tensor([(3 - abs(down)) * (3 - abs(right)) for down in range(-2, 3) for right in range(-2, 3)] + [9, 9, 1])
    torch.testing.assert_close(bias.weight.grad, pairs_R.float().expand(2, -1), atol=0, rtol=0)


def test_in_16_bits_the_gradient_of_a_table_is_as_exact_as_one_number(parallel: Parallel) -> None:
    """An offset stands in hundreds of pairs of positions. Their sum in bf16 would be wrong by several percent."""
    for bias, S in ((PatchBias(2, 14, parallel).bfloat16(), 197), (RelativeBias(2, 256, parallel).bfloat16(), 256)):
        gradient_HSS = torch.rand(2, S, S, generator=torch.Generator().manual_seed(1)).bfloat16()
        arguments = () if isinstance(bias, PatchBias) else (S,)
        (found,) = torch.autograd.grad(bias(*arguments), [bias.weight], gradient_HSS)
        (exact,) = torch.autograd.grad(bias.double()(*arguments), [bias.weight], gradient_HSS.double())
        assert found.dtype == torch.bfloat16 and float((found - exact).norm() / exact.norm()) < 0.004


def test_patch_bias_has_the_dtype_of_its_weights_and_no_other_state(parallel: Parallel) -> None:
    bias = PatchBias(2, 3, parallel).bfloat16()
    assert bias().dtype == torch.bfloat16
    assert list(bias.state_dict()) == ["weight"] and not list(bias.buffers())
    assert patch_offset_rows(3, torch.device("cpu")).dtype == torch.int64


def split_relative_bias() -> tuple[int, torch.Tensor]:
    parallel = init_parallel(2, "cpu")
    return parallel.tp_rank, RelativeBias(4, 10, parallel).weight.detach()


def test_heads_of_the_relative_bias_have_their_own_slopes_if_split_over_tp(parallel: Parallel) -> None:
    whole_HR = RelativeBias(4, 10, parallel).weight
    for rank, weight_HR in run_distributed(split_relative_bias, 2):
        torch.testing.assert_close(weight_HR, whole_HR[2 * rank : 2 * rank + 2], atol=0, rtol=0)


def split_patch_bias() -> tuple[int, torch.Tensor, tuple[bool, int]]:
    parallel = init_parallel(2, "cpu")
    bias = numbered(parallel, 3)
    weight = PatchBias(4, 3, parallel).weight
    assert weight.shape == bias.weight.shape
    return parallel.tp_rank, bias().detach(), (weight.tensor_model_parallel, weight.partition_dim)  # type: ignore[attr-defined]


def test_heads_of_the_patch_bias_are_split_over_tp(parallel: Parallel) -> None:
    whole_HSS = numbered(parallel, 3)()
    for rank, bias_HSS, flags in run_distributed(split_patch_bias, 2):
        torch.testing.assert_close(bias_HSS, whole_HSS[2 * rank : 2 * rank + 2], atol=0, rtol=0)
        assert flags == (True, 0)
