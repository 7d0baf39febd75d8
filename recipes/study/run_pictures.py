"""Pictures of the runs themselves: curves, plan against measurement, throughput over ranks, ablations. matplotlib draws them."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import mean, median, stdev
from typing import Any

from recipes.study.figure_style import Chart, Palette, log_axes
from recipes.study.log_sample import Row
from recipes.study.planned import MEASURE, MEMORY, STEP
from recipes.study.results_table import AXIS, mean_rate, named, throughput_series
from recipes.study.study_file import BUDGETS, RANKS, Study, axis_names, short_names
from recipes.train.probe import METRIC

MOST_CURVES = 40
"""Curves of one picture; more cannot be distinguished, and make the page large."""
MOST_LEGEND = 8
"""Series of a picture that have a name, each with a colour of its own."""
SCALES = {*BUDGETS, RANKS, "run.max_steps", "model.hidden_size", "model.num_layers", "model.ffn_hidden_size", "model.num_attention_heads"}
MOST_VALUES = 16


def run_pictures(study: Study, rows: Sequence[Row], curves: Sequence[Row]) -> Iterator[Chart]:
    """Yield the pictures that the study has data for."""
    yield from _curves(study, rows, curves)
    yield from _throughput(study, rows)
    yield from _plans(rows)
    yield from _ablations(study, rows)


def _curves(study: Study, rows: Sequence[Row], curves: Sequence[Row]) -> Iterator[Chart]:
    key = METRIC if any(row.get(METRIC) is not None for row in curves) else "loss"
    by_cell = defaultdict[str, dict[int, list[tuple[float, float]]]](lambda: defaultdict(list))
    for row in curves:
        if row.get(key) is not None and row.get("tokens"):
            by_cell[row["cell"]][row["step"]].append((row["tokens"], row[key]))
    names = list(by_cell)[:: -(-len(by_cell) // MOST_CURVES) or 1] if by_cell else []
    if not names:
        return
    first = next(iter(short_names(study.axes).values()))
    groups = {row["cell"]: row.get(f"{AXIS}{first}") for row in rows}
    shown = list(dict.fromkeys(groups.get(name) for name in names))

    def draw(axes: Any, colors: Palette) -> None:
        labelled = set()
        for name in names:
            place = shown.index(groups.get(name))
            points = [[mean(values) for values in zip(*seeds, strict=True)] for _, seeds in sorted(by_cell[name].items())]
            label = named(groups.get(name)) if place not in labelled and len(shown) <= MOST_LEGEND else None
            labelled.add(place)
            axes.plot(*zip(*points, strict=True), color=colors.of(place), lw=1, label=label)
        log_axes(axes.xaxis)
        axes.set(xlabel="tokens", ylabel=key)
        if len(shown) <= MOST_LEGEND:
            axes.legend(title=first, ncols=2)

    part = f", {len(names)} of {len(by_cell)} cells" if len(names) < len(by_cell) else ""
    note = " The loss of different settings is not comparable." if key == "loss" else ""
    yield Chart("curves", f"{key} during training", f"Mean over seeds, one line a cell{part}.{note}", draw)


def _throughput(study: Study, rows: Sequence[Row]) -> Iterator[Chart]:
    """Tokens a second over ranks, with the line of ideal scaling: from the fewest ranks of each series."""
    series = throughput_series(study, rows)
    counts = sorted({count for points in series.values() for count in points})
    if len(counts) < 2:
        return
    weak = any(len({row["batch"] for found in points.values() for row in found}) > 1 for points in series.values())

    def draw(axes: Any, colors: Palette) -> None:
        from matplotlib.ticker import NullLocator

        for number, (name, points) in enumerate(list(series.items())[:MOST_LEGEND]):
            ranks = sorted(points)
            rates = [mean_rate(points[count]) for count in ranks]
            axes.plot(ranks, rates, "o-", color=colors.of(number), lw=1.2, ms=4, label=name or "measured")
            ideal = [rates[0] * count / ranks[0] for count in ranks]
            axes.plot(ranks, ideal, "--", color=colors.muted, lw=0.9, label="ideal" if number == 0 else None)
        log_axes(axes.xaxis, axes.yaxis)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="ranks", ylabel="tokens a second")
        axes.legend()

    kind = "Weak" if weak else "Strong"
    caption = "The batch grows with the ranks." if weak else "The batch of an update is the same for all."
    part = f" The first {MOST_LEGEND} of {len(series)} series." if len(series) > MOST_LEGEND else ""
    caption = f"{caption} Dashed: ideal scaling, n times the ranks train n times as fast.{part}"
    yield Chart("throughput", f"{kind} scaling of throughput", caption, draw)


def _plans(rows: Sequence[Row]) -> Iterator[Chart]:
    found = [row for row in rows if row["state"] == "done" and row.get(STEP) and row["step_seconds"]]
    if not found:
        return

    def draw(axes: Any, colors: Palette) -> None:
        for number, marker, chosen in ((0, "o", False), (1, "s", True)):
            own = [row for row in found if bool(row[MEASURE]) is chosen]
            if not own:
                continue
            label = "measures" if chosen else "runs"
            axes.plot([row[STEP] for row in own], [row["step_seconds"] for row in own], marker, color=colors.of(number), ms=4, label=label)
        values = [row[key] for row in found for key in (STEP, "step_seconds")]
        ends = [0.9 * min(values), 1.1 * max(values)]
        axes.plot(ends, ends, color=colors.muted, lw=0.9)
        axes.fill_between(ends, [0.9 * end for end in ends], [1.1 * end for end in ends], color=colors.muted, alpha=0.15, lw=0)
        log_axes(axes.xaxis, axes.yaxis)
        axes.set(xlabel="planned seconds of an update", ylabel="measured")
        axes.legend()

    calibrated = {row[STEP] for row in found if row[MEASURE]}
    times = _differences((row[STEP], row["step_seconds"]) for row in found if row[STEP] not in calibrated)
    memory = _differences((row[MEMORY], row["peak_memory_bytes"]) for row in found if row[MEMORY] and row["peak_memory_bytes"])
    parts = [f"{what} by {_percent(values)}" for what, values in (("an update's time", times), ("memory", memory)) if values]
    differs = f"The plan differs: {', '.join(parts)}. " if parts else "Only the measures are done. "
    yield Chart("plan", "Plan against measurement", f"{differs}Band: 10 %. Rates are those of the measures.", draw)


def _differences(pairs: Iterable[tuple[float, float]]) -> list[float]:
    """Return for each planned value how far it is from the median of what was measured, as a share. `pairs`: planned, measured."""
    by_plan = defaultdict[float, list[float]](list)
    for planned, measured in pairs:
        by_plan[planned].append(measured)
    return sorted(abs(planned / median(values) - 1) for planned, values in by_plan.items())


def _percent(ordered: Sequence[float]) -> str:
    most = f"{100 * ordered[-1]:.1f} % at most"
    return f"{100 * median(ordered):.1f} % in the median of {len(ordered)} and {most}" if len(ordered) > 1 else most


def _ablations(study: Study, rows: Sequence[Row]) -> Iterator[Chart]:
    """The metric over each axis that is neither size, budget nor ranks, with its standard error over runs. None if sizes, budgets or ranks
    vary too: the error would be that of the scale."""
    if any(axis_names(axis, values) & SCALES for axis, values in study.axes.items()):
        return
    for short in short_names(study.axes).values():
        groups = defaultdict[str, list[float]](list)
        for row in rows:
            if row["state"] == "done" and row["metric"] is not None:
                groups[str(row.get(f"{AXIS}{short}"))].append(row["metric"])
        if 2 <= len(groups) <= MOST_VALUES:
            title = f"{study.metric} by {short}"
            yield Chart(
                f"ablation_{short}", title, "Mean and standard error over all runs with the value.", _drawer(short, study, dict(groups))
            )


def _drawer(short: str, study: Study, groups: Mapping[str, Sequence[float]]) -> Any:
    def draw(axes: Any, colors: Palette) -> None:
        places = range(len(groups))
        means = [mean(values) for values in groups.values()]
        errors = [standard_error(values) or 0.0 for values in groups.values()]
        axes.errorbar(places, means, errors, fmt="o", color=colors.of(0), capsize=3, ms=5)
        for place, values in enumerate(groups.values()):
            axes.plot([place + 0.12] * len(values), values, "o", color=colors.muted, ms=2.5)
        long = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, groups)) > 6 else {}
        axes.set_xticks(list(places), list(groups), **long)
        axes.set_xlim(-0.5, len(groups) - 0.5)
        axes.set(xlabel=short, ylabel=study.metric)

    return draw


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean; None for fewer than two values."""
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
