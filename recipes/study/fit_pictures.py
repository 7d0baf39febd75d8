"""Pictures of a fit: the law with its interval and the runs that were held out, the minima of each budget, the frontier. matplotlib draws
them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from recipes.errors import ConfigError
from recipes.study.figure_style import Chart, Palette, log_axes
from recipes.study.fit import held_out
from recipes.study.log_sample import Row
from recipes.study.points import Points, points_of
from recipes.study.study_file import Study
from recipes.study.wording import in_percent

LEGEND_COLUMNS = 2
CURVE = 60


def fit_pictures(study: Study, rows: Sequence[Row], fit: Mapping[str, Any]) -> Iterator[Chart]:
    """Yield the pictures of what the fit has found. `fit`: the content of fit.json."""
    try:
        points = points_of(study, rows)
    except ConfigError:
        return
    held_N = held_out(study, points)
    if fit["law"] and len(points.variables) == 1:
        yield _one_variable(points, held_N, fit)
    elif fit["law"]:
        yield _two_variables(points, fit)
    if fit["isoflop"] and fit["isoflop"]["minima"]:
        yield _isoflop(points, fit)
        if fit["isoflop"]["size_exponent"]:
            yield _frontier(fit["isoflop"], points.variables[0])


def _one_variable(points: Points, held_N: np.ndarray, fit: Mapping[str, Any]) -> Chart:
    def draw(axes: Any, colors: Palette) -> None:
        law = fit["law"]["curves"]
        x = [one["x"] for one in law]
        axes.fill_between(x, [one["low"] for one in law], [one["high"] for one in law], color=colors.of(0), alpha=0.2, lw=0)
        axes.plot(x, [one["value"] for one in law], color=colors.of(0), lw=1.2, label=f"law, {in_percent(fit['level'])} interval")
        axes.plot(points.x_NJ[~held_N, 0], points.y_N[~held_N], "o", color=colors.ink, ms=3.5, label="fitted runs")
        _draw_held_out(axes, colors, fit, points.variables[0])
        log_axes(axes.xaxis, axes.yaxis)
        axes.set(xlabel=_in_words(points.variables[0]), ylabel=points.quantity.name)
        axes.legend()

    return Chart("law", "The fitted law", "The open points were not fitted; the bars are what the law predicts for them.", draw)


def _draw_held_out(axes: Any, colors: Palette, fit: Mapping[str, Any], variable: str) -> None:
    for number, one in enumerate(fit["held_out"]):
        label = ("predicted", "held out") if number == 0 else (None, None)
        errors = np.maximum(0.0, [[one["value"] - one["low"]], [one["high"] - one["value"]]])  # an interval need not have its estimate
        axes.errorbar(one[variable], one["value"], errors, fmt="none", color=colors.of(1), capsize=4, label=label[0])
        axes.plot(one[variable], one["measured"], "o", mfc="none", color=colors.of(1), ms=6, label=label[1])


def _two_variables(points: Points, fit: Mapping[str, Any]) -> Chart:
    size, data = points.variables

    def draw(axes: Any, colors: Palette) -> None:
        sizes = sorted(set(points.x_NJ[:, 0].tolist()))
        for number, one in enumerate(sizes):
            at = points.x_NJ[:, 0] == one
            tokens = points.x_NJ[at, 1]
            x = np.geomspace(tokens.min(), tokens.max(), CURVE)
            axes.plot(x, law_value(fit["law"], {size: one, data: x}), color=colors.of(number), lw=1)
            is_held = any(row[size] == one for row in fit["held_out"])
            axes.plot(
                tokens,
                points.y_N[at],
                "o",
                color=colors.of(number),
                ms=4,
                mfc="none" if is_held else None,
                label=f"{one:.3g}{' (held out)' if is_held else ''}",
            )
        for one in fit["held_out"]:
            axes.plot([one[data]] * 2, [one["low"], one["high"]], color=colors.ink, lw=0.8)
        log_axes(axes.xaxis, axes.yaxis)
        axes.set(xlabel=_in_words(data), ylabel=points.quantity.name)
        axes.legend(title=_in_words(size), ncols=LEGEND_COLUMNS)

    bars = f"vertical bars are the {in_percent(fit['level'])} intervals of their prediction"
    caption = f"Lines: the law for each size. Open points were not fitted; {bars}."
    return Chart("law", "The fitted law of size and data", caption, draw)


def law_value(law: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    """Return the law's value. `law`: that of fit.json. `x`: variable -> its value, or an array of values."""
    terms = [law["factors"][name] * x[name] ** -law["exponents"][name]["value"] for name in law["exponents"]]
    return law["irreducible"]["value"] + sum(terms)


def _isoflop(points: Points, fit: Mapping[str, Any]) -> Chart:
    groups = defaultdict[float, list[int]](list)
    for place, row in enumerate(points.rows):
        groups[row.get("budget_flops") or 0.0].append(place)

    def draw(axes: Any, colors: Palette) -> None:
        for number, (flops, places) in enumerate(sorted(groups.items())):
            x, y = points.x_NJ[places, 0], points.y_N[places]
            axes.plot(x, y, "o", color=colors.of(number), ms=3.5, label=f"{flops:.3g}")
            if len(set(x.tolist())) >= 3:
                curve = np.polyfit(np.log(x), np.log(y), 2)
                at = np.geomspace(x.min(), x.max(), CURVE)
                axes.plot(at, np.exp(np.polyval(curve, np.log(at))), color=colors.of(number), lw=1)
        inside = [one for one in fit["isoflop"]["minima"] if not one["why"]]
        for number, one in enumerate(inside):
            axes.plot([one["low"], one["high"]], [one["value"]] * 2, color=colors.ink, lw=1)
            axes.plot(
                one["size"],
                one["value"],
                "D",
                color=colors.ink,
                ms=4,
                label="minimum" if number == 0 else None,
            )
        log_axes(axes.xaxis, axes.yaxis)
        axes.set(xlabel=_in_words(points.variables[0]), ylabel=points.quantity.name)
        axes.legend(title="FLOPs", ncols=LEGEND_COLUMNS)

    return Chart(
        "isoflop",
        "Error over size at fixed FLOPs",
        f"A parabola for each budget. Diamonds: minima inside of the grid, with {in_percent(fit['level'])} intervals.",
        draw,
    )


def _frontier(isoflop: Mapping[str, Any], size: str) -> Chart:
    inside = [one for one in isoflop["minima"] if not one["why"]]
    exponent = isoflop["size_exponent"]

    def draw(axes: Any, colors: Palette) -> None:
        flops, sizes = (np.array([one[key] for one in inside]) for key in ("flops", "size"))
        errors = np.maximum(0.0, [[one["size"] - one["low"], one["high"] - one["size"]] for one in inside]).T
        axes.errorbar(flops, sizes, errors, fmt="o", color=colors.of(0), capsize=3, ms=4, label="minima")
        x = np.geomspace(flops.min(), 4 * flops.max(), CURVE)
        center = np.exp(np.log(sizes).mean()), np.exp(np.log(flops).mean())
        axes.plot(x, center[0] * (x / center[1]) ** exponent["value"], color=colors.of(1), lw=1.2, label=f"FLOPs^{exponent['value']:.2f}")
        log_axes(axes.xaxis, axes.yaxis)
        axes.set(xlabel="FLOPs of a run", ylabel=f"best {_in_words(size)}")
        axes.legend()

    caption = f"The best size for a budget grows with FLOPs^{exponent['value']:.2f} ({exponent['low']:.2f} to {exponent['high']:.2f})."
    return Chart("frontier", "Compute-optimal size", caption, draw)


def _in_words(variable: str) -> str:
    return variable.replace("_", " ")
