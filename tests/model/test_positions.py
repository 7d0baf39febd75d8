"""ALiBi slopes and the relative bias: symmetric at the start, a function of head and offset, whatever the length."""

import pytest
import torch

from model.parallel import Parallel
from model.positions import RelativeBias, alibi_slopes


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


def test_bias_starts_as_minus_slope_times_distance(parallel: Parallel) -> None:
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


def test_the_table_says_that_it_is_split(parallel: Parallel) -> None:
    weight = RelativeBias(4, 10, parallel).weight
    assert (weight.tensor_model_parallel, weight.partition_dim) == (True, 0)  # type: ignore[attr-defined]
