"""The content of fit.json as lines for the terminal and the report. Standard library only."""

from collections.abc import Iterator, Mapping
from typing import Any

Content = Mapping[str, Any]


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
    if fit["isoflop"]:
        yield from _isoflop_lines(fit["isoflop"])
    for test in fit["tests"]:
        yield f"test {test['name']}: {'passed' if test['passed'] else 'FAILED'}, {test['detail']}"


SHOWN = 5


def in_words(value: Content) -> str:
    """Return an estimate with its interval."""
    return f"{value['value']:.4g} ({value['low']:.4g} to {value['high']:.4g})"


def in_number(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun. `many`: the plural, if it is not the singular with an s."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def negative(value: Content) -> dict[str, float]:
    """Return an estimate of minus the quantity."""
    return {"value": -value["value"], "low": -value["high"], "high": -value["low"]}


def held_out_line(one: Content, level: float) -> str:
    """Return the line about a cell that was held out: what was predicted, and what was measured. `level`: of the interval."""
    where = "inside" if one["inside"] else "OUTSIDE"
    return f"held out: {one['cell']}: predicted {in_words(one)}, measured {one['measured']:.4g}, {where} the {100 * level:.0f} % interval"


def _law_lines(law: Content) -> Iterator[str]:
    none = "" if law["has_irreducible"] else ", which may as well be none"
    yield f"law: {law['formula']}, E = {in_words(law['irreducible'])}{none}"
    for name, exponent in law["exponents"].items():
        yield f"  {name}: exponent {in_words(exponent)}, factor {law['factors'][name]:.4g}"
    yield f"  residuals: {100 * law['residual_scale']:.2g} % (robust standard deviation)"


def _isoflop_lines(isoflop: Content) -> Iterator[str]:
    for one in isoflop["minima"]:
        size, *ends = ("beyond" if one[key] is None else f"{one[key]:.3g}" for key in ("size", "low", "high"))
        bounds = " to ".join(ends)
        note = f"; {one['why']}" if one["why"] else f", {one['tokens']:.3g} tokens, at the minimum {one['value']:.4g}"
        yield f"at {one['flops']:.3g} FLOPs the best size is {size} ({bounds}){note}"
    if isoflop["size_exponent"]:
        yield (
            f"frontier: the best size grows with FLOPs^{in_words(isoflop['size_exponent'])}, the tokens with "
            f"FLOPs^{in_words(isoflop['tokens_exponent'])}, the quantity with FLOPs^{in_words(isoflop['value_exponent'])}"
        )
