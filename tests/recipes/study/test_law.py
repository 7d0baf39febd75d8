"""The fitted law: known exponents come back, one outlier hardly matters, the Jacobian is that of the residuals."""

import numpy as np
import pytest

from recipes.study.law import HUBER, LEAST_SCALE, MOST_EXPONENT, Law, _bounds, _jacobian, _residuals, fit_law, robust_scale

SIZES = np.geomspace(1e5, 1e7, 8)
GRID = np.array([(size, tokens) for size in np.geomspace(1e5, 3.2e6, 6) for tokens in np.geomspace(2e6, 1.6e7, 4)])


def law_of_size(size: np.ndarray) -> np.ndarray:
    """Return the errors of a law with E = 0.35, A = 25 and a = 0.35."""
    return 0.35 + 25.0 * size**-0.35


def law_of_both(x_NJ: np.ndarray) -> np.ndarray:
    """Return the errors of a law with two terms."""
    return 0.35 + 25.0 * x_NJ[:, 0] ** -0.35 + 250.0 * x_NJ[:, 1] ** -0.45


def test_a_law_of_one_variable_without_noise_comes_back_within_a_thousandth() -> None:
    law = fit_law(np.log(SIZES)[:, None], np.log(law_of_size(SIZES)))
    assert law.exponents == pytest.approx([0.35], rel=1e-3)
    assert law.factors == pytest.approx([25.0], rel=1e-3)
    assert law.irreducible == pytest.approx(0.35, rel=1e-3)
    assert law.scale < 1e-4


def test_a_law_of_two_variables_without_noise_comes_back_within_a_thousandth() -> None:
    law = fit_law(np.log(GRID), np.log(law_of_both(GRID)))
    assert law.exponents == pytest.approx([0.35, 0.45], rel=1e-3)
    assert law.factors == pytest.approx([25.0, 250.0], rel=1e-3)
    assert law.irreducible == pytest.approx(0.35, rel=1e-3)


def test_a_law_without_an_irreducible_term_has_next_to_none() -> None:
    law = fit_law(np.log(SIZES)[:, None], np.log(25.0 * SIZES**-0.35))
    assert law.exponents == pytest.approx([0.35], rel=1e-3)
    assert law.irreducible < 1e-3 * law_of_size(SIZES).min()


@pytest.mark.parametrize(("num_variables", "factor"), [(1, 2.0), (2, 0.5)])
def test_one_outlier_changes_the_exponents_by_less_than_a_twentieth(num_variables: int, factor: float) -> None:
    x_NJ = GRID if num_variables == 2 else np.repeat(SIZES, 2)[:, None]
    log_y_N = np.log(law_of_both(x_NJ) if num_variables == 2 else law_of_size(x_NJ[:, 0]))
    log_y_N += 0.001 * np.random.default_rng(0).standard_normal(len(x_NJ))
    clean = fit_law(np.log(x_NJ), log_y_N).exponents
    log_y_N[9] += np.log(factor)
    assert fit_law(np.log(x_NJ), log_y_N).exponents == pytest.approx(clean, rel=0.05)


def test_the_values_are_those_that_the_factors_and_exponents_give() -> None:
    law = fit_law(np.log(GRID), np.log(law_of_both(GRID)))
    (first, second), (size, tokens) = law.factors, law.exponents
    by_hand = law.irreducible + first * GRID[:, 0] ** -size + second * GRID[:, 1] ** -tokens
    assert np.exp(law.log_values(np.log(GRID))) == pytest.approx(by_hand, rel=1e-9)
    far = np.array([[1e8, 1e9]])
    assert np.exp(law.log_values(np.log(far))) == pytest.approx(law_of_both(far), rel=1e-3), "beyond the grid too"


@pytest.mark.parametrize("num_variables", [1, 2])
def test_the_jacobian_is_that_of_finite_differences(num_variables: int) -> None:
    rng = np.random.default_rng(num_variables)
    x_NJ, log_y_N = rng.normal(size=(7, num_variables)), rng.normal(size=7)
    theta_P = np.array([-1.0, *[value for _ in range(num_variables) for value in (rng.normal(), rng.uniform(0.1, 1))]])
    step = 1e-6
    for place in range(len(theta_P)):
        above, below = theta_P.copy(), theta_P.copy()
        above[place] += step
        below[place] -= step
        numeric_N = (_residuals(above, x_NJ, log_y_N) - _residuals(below, x_NJ, log_y_N)) / (2 * step)
        assert _jacobian(theta_P, x_NJ, log_y_N)[:, place] == pytest.approx(numeric_N, abs=1e-8)


def test_parameters_stay_inside_of_their_bounds_whatever_the_data_are() -> None:
    rng = np.random.default_rng(3)
    for log_y_N in (rng.normal(size=8), np.linspace(0.0, 5.0, 8), np.log(1 + 1e20 * SIZES**-9.0), np.zeros(8)):
        law = fit_law(np.log(SIZES)[:, None], log_y_N)
        low, high = _bounds(1, log_y_N)
        assert np.isfinite(law.theta_P).all() and (law.theta_P >= low).all() and (law.theta_P <= high).all()
        assert 0 <= law.exponents[0] <= MOST_EXPONENT


def test_a_search_from_a_law_keeps_its_centre_and_finds_the_same() -> None:
    log_x_NJ, log_y_N = np.log(GRID), np.log(law_of_both(GRID))
    first = fit_law(log_x_NJ, log_y_N)
    again = fit_law(log_x_NJ[:20], log_y_N[:20], first)
    assert (again.center_J == first.center_J).all()
    assert again.exponents == pytest.approx(first.exponents, rel=1e-3)
    assert isinstance(again, Law) and again.factors == pytest.approx(first.factors, rel=1e-2)


def test_the_robust_scale_is_a_standard_deviation_that_outliers_hardly_change() -> None:
    residuals_N = 0.02 * np.random.default_rng(0).standard_normal(2001)
    assert robust_scale(residuals_N) == pytest.approx(0.02, rel=0.06)
    residuals_N[:20] = 1e6
    assert robust_scale(residuals_N) == pytest.approx(0.02, rel=0.08)
    assert robust_scale(np.zeros(5)) == LEAST_SCALE and HUBER == 1.345
