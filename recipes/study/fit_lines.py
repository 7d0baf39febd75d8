"""The content of fit.json as lines for the terminal and the report. Standard library only."""

from collections.abc import Iterator, Mapping
from typing import Any

from recipes.study.wording import in_number, in_percent, in_words, within

Content = Mapping[str, Any]
LAW, FRONTIER = "law", "frontier"
"""What data may support."""
SHOWN = 5
"""Runs that are not fitted of which a line is printed."""


def fit_lines(fit: Content) -> Iterator[str]:
    """Yield what the fit found: the law, the runs that were held out, the minima, and the tests."""
    runs, cells = in_number(fit["num_runs"], "run"), in_number(fit["num_cells"], "cell")
    yield f"{fit['quantity']} of {runs} in {cells}, over {' and '.join(fit['variables'])}"
    for left in fit["left"][:SHOWN]:
        yield f"not fitted: {left['cell']} seed {left['seed']}, {left['why']}"
    if len(fit["left"]) > SHOWN:
        yield f"not fitted: {len(fit['left']) - SHOWN} more"
    if fit["law"]:
        yield from _law_lines(fit["law"])
    for one in fit["held_out"]:
        yield held_out_line(one, fit["level"])
    if fit["law"] and not fit["held_out"] and fit["options"].get("held_out", True):
        yield "nothing is held out: more than half of the runs have the largest size"
    if fit["isoflop"]:
        yield from _isoflop_lines(fit["isoflop"])
    for test in fit["tests"]:
        yield f"test {test['name']}: {'passed' if test['passed'] else 'FAILED'}, {test['detail']}"


def held_out_line(one: Content, level: float) -> str:
    """Return the line about a cell that was held out: what was predicted, and what was measured. `level`: of the interval."""
    where = "inside" if one["inside"] else "OUTSIDE"
    return f"held out: {one['cell']}: predicted {in_words(one)}, measured {one['measured']:.4g}, {where} the {in_percent(level)} interval"


def _law_lines(law: Content) -> Iterator[str]:
    none = "" if law["has_irreducible"] else ", which may as well be none"
    yield f"law: {law['formula']}, E = {in_words(law['irreducible'])}{none}"
    for name, exponent in law["exponents"].items():
        yield f"  {name}: exponent {in_words(exponent)}, factor {law['factors'][name]:.4g}"
    yield f"  residuals: {100 * law['residual_scale']:.2g} % (robust standard deviation)"


def _isoflop_lines(isoflop: Content) -> Iterator[str]:
    for one in isoflop["minima"]:
        size, *ends = (within(one[key], one["smallest"], one["largest"]) for key in ("size", "low", "high"))
        bounds = " to ".join(ends)
        note = f"; {one['why']}" if one["why"] else f", {one['tokens']:.3g} tokens, at the minimum {one['value']:.4g}"
        yield f"at {one['flops']:.3g} FLOPs the best size is {size} ({bounds}){note}"
    if isoflop["size_exponent"]:
        yield (
            f"frontier: the best size grows with FLOPs^{in_words(isoflop['size_exponent'])}, the tokens with "
            f"FLOPs^{in_words(isoflop['tokens_exponent'])}, the quantity with FLOPs^{in_words(isoflop['value_exponent'])}"
        )
