"""Minima at fixed budgets: those of exact parabolas come back, and what shows no minimum is refused with the reason."""

from collections.abc import Callable

import numpy as np
import pytest

from recipes.study import isoflop
from recipes.study.bootstrap import Estimate
from recipes.study.isoflop import Frontier, frontier_of

BUDGETS = np.geomspace(3e12, 2.4e13, 4)
GRID = np.geomspace(6e4, 4e6, 6)


def width(estimate: Estimate) -> float:
    """Return the distance between the ends of an interval."""
    return estimate.high - estimate.low


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer repetitions, for seconds."""
    monkeypatch.setattr(isoflop, "REPETITIONS", 80)


def best_size(flops: float) -> float:
    """Return the size with the least error of a budget."""
    return float(3e5 * (flops / 3e12) ** 0.5)


def least_error(flops: float) -> float:
    """Return the error at the best size of a budget."""
    return float(0.5 * (flops / 3e12) ** -0.1)


def found(
    *,
    sizes: np.ndarray = GRID,
    budgets: np.ndarray = BUDGETS,
    curvature: float = 0.03,
    noise: float = 0.0,
    best: Callable[[float], float] = best_size,
    curvatures: dict[int, float] | None = None,
) -> Frontier:
    """Return the frontier of made-up parabolas with two seeds a cell. `curvatures`: number of a budget -> another curvature."""
    rng, rows = np.random.default_rng(0), []
    for number, flops in enumerate(budgets):
        square = (curvatures or {}).get(number, curvature)
        for size in sizes:
            error = least_error(flops) * np.exp(square * np.log(size / best(flops)) ** 2)
            rows += [(flops, size, flops / size / 8, error * np.exp(noise * rng.standard_normal())) for _ in range(2)]
    return frontier_of(*np.array(rows).T, rng)


def test_the_minima_of_exact_parabolas_come_back() -> None:
    minima = found().minima
    assert [one.flops for one in minima] == pytest.approx(BUDGETS)
    assert [one.size.value for one in minima] == pytest.approx([best_size(flops) for flops in BUDGETS], rel=1e-6)
    assert [one.value for one in minima] == pytest.approx([least_error(flops) for flops in BUDGETS], rel=1e-6)
    assert [one.tokens for one in minima] == pytest.approx([flops / best_size(flops) / 8 for flops in BUDGETS], rel=1e-6)
    assert not any(one.why for one in minima)


def test_the_exponents_of_the_frontier_come_back_and_those_of_size_and_tokens_add_up_to_one() -> None:
    frontier = found()
    assert frontier.why == "" and frontier.size_exponent and frontier.tokens_exponent and frontier.value_exponent
    assert frontier.size_exponent.value == pytest.approx(0.5, abs=1e-6)
    assert frontier.tokens_exponent.value == pytest.approx(0.5, abs=1e-6)
    assert frontier.value_exponent.value == pytest.approx(-0.1, abs=1e-6)


def test_noise_makes_intervals_that_contain_the_true_exponent() -> None:
    frontier = found(noise=0.005)
    assert frontier.size_exponent and width(frontier.size_exponent) > 0.01 and frontier.size_exponent.contains(0.5)
    assert all(one.size.low < one.size.value < one.size.high for one in frontier.minima)


@pytest.mark.parametrize(("sizes", "end"), [(np.geomspace(1.5e6, 2e7, 6), "smallest"), (np.geomspace(1e4, 2.5e5, 6), "largest")])
def test_minima_beyond_the_grid_are_refused_with_the_end_at_which_they_are(sizes: np.ndarray, end: str) -> None:
    frontier = found(sizes=sizes)
    assert (frontier.size_exponent, frontier.tokens_exponent, frontier.value_exponent) == (None, None, None)
    assert frontier.why.startswith("0 of 4 budgets have their minimum inside of the grid, 3 are needed; at 3e+12 FLOPs")
    assert all(f"at the {end} size or beyond" in one.why for one in frontier.minima)


def test_a_minimum_at_the_smallest_size_is_refused() -> None:
    frontier = found(sizes=np.geomspace(3e5, 2e7, 6), noise=0.01)
    assert "at the smallest size or beyond" in frontier.minima[0].why


@pytest.mark.parametrize(("slope", "end"), [(-0.2, "largest"), (0.2, "smallest")])
def test_a_curve_without_a_minimum_is_refused_at_the_side_to_which_it_falls(slope: float, end: str) -> None:
    rows = [
        (flops, size, flops / size / 8, 0.5 * np.exp(-0.01 * np.log(size / 5e5) ** 2) * (size / 5e5) ** slope)
        for flops in BUDGETS
        for size in GRID
    ]
    frontier = frontier_of(*np.array(rows).T, np.random.default_rng(0))
    assert frontier.size_exponent is None
    assert all(f"at the {end} size or beyond" in one.why for one in frontier.minima)
    assert all(GRID[0] * 0.99 <= flops / 8 / one.tokens <= GRID[-1] * 1.01 for flops, one in zip(BUDGETS, frontier.minima, strict=True))


def test_one_budget_without_a_minimum_leaves_the_frontier_to_the_others() -> None:
    frontier = found(curvatures={1: -0.02})
    assert [bool(one.why) for one in frontier.minima] == [False, True, False, False]
    assert frontier.why == "" and frontier.size_exponent and frontier.size_exponent.value == pytest.approx(0.5, abs=1e-6)


def test_two_minima_inside_are_too_few() -> None:
    frontier = found(curvatures={1: -0.02, 2: -0.02})
    assert frontier.size_exponent is None and frontier.why.startswith("2 of 4 budgets have their minimum inside of the grid, 3 are needed")


def test_too_few_budgets_are_refused_with_their_number() -> None:
    frontier = found(budgets=BUDGETS[:2])
    assert frontier.minima == [] and frontier.why == "2 budgets have 4 sizes or more, 3 are needed"


def test_one_budget_is_one_budget() -> None:
    assert found(budgets=BUDGETS[:1]).why == "1 budget has 4 sizes or more, 3 are needed"


def test_too_few_sizes_are_refused() -> None:
    assert found(sizes=GRID[1:4]).why == "0 budgets have 4 sizes or more, 3 are needed"
    assert found(sizes=GRID[1:5]).why != "0 budgets have 4 sizes or more, 3 are needed"
