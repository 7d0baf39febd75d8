"""Draws the curves of a run from metrics.jsonl. Reads nothing else; the objective chooses the metrics; a probe adds its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.system.json_lines import read_rows
from recipes.train.probe import METRIC

CURVES = "curves.png"
MARGINS = {"left": 0.07, "right": 0.98, "bottom": 0.08, "top": 0.9, "hspace": 0.32, "wspace": 0.18}


def plot_metrics(run_dir: Path, panels: Mapping[str, tuple[str, ...]]) -> Path | None:
    """Draw the curves of metrics.jsonl into curves.png beside it, and return its path. None if it cannot be written, or if matplotlib is
    not installed (as on a machine without package access). `panels`: title -> names of metrics, at most four panels. A probe has
    a fifth one, beside the first."""
    try:
        import matplotlib  # takes a second to import, so only the end of a run does
    except ModuleNotFoundError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows, _ = read_rows(run_dir / "metrics.jsonl")
    assert len(panels) <= 4
    if any(row.get(METRIC) is not None for row in rows):
        first, *others = panels.items()
        panels = dict([first, (METRIC, (METRIC,)), *others])
    figure, path = _draw(rows, run_dir.name, panels), run_dir / CURVES
    try:
        figure.savefig(path, dpi=110)
    except OSError:
        return None
    finally:
        pyplot.close(figure)
    return path


def _draw(rows: list[dict[str, Any]], title: str, panels: Mapping[str, tuple[str, ...]]) -> Any:
    from matplotlib import pyplot

    # Fixed margins, since a constrained layout draws everything twice.
    columns = 2 if len(panels) <= 4 else 3
    figure, axes = pyplot.subplots(2, columns, figsize=(5.5 * columns, 7), gridspec_kw=MARGINS)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (name, keys) in zip(axes.flat, panels.items(), strict=False):
        for key in keys:
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=key, marker="." if len(points) < 40 else None)
        axis.set(title=name, xlabel="optimizer updates")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    figure.suptitle(title)
    return figure
