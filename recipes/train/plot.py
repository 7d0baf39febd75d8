"""metrics.jsonl -> a picture of the run: loss, stds, explained variance, rank. Reads nothing else."""

import json
from pathlib import Path
from typing import Any

PANELS = (
    ("loss", ("loss", "eval_loss")),
    ("std over positions", ("target_std", "pred_std", "frontend_std")),
    ("explained variance", ("explained_variance", "neighbour_correlation")),
    ("effective rank of the targets", ("target_rank",)),
)


def plot_metrics(run_dir: Path) -> Path:
    """Write curves.png beside metrics.jsonl and return its path."""
    import matplotlib  # a second of import that only the end of a run pays

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows: list[dict[str, Any]] = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), constrained_layout=True)
    for axis, (title, keys) in zip(axes.flat, PANELS, strict=True):
        for key in keys:
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=key, marker="." if len(points) < 40 else None)
        axis.set(title=title, xlabel="optimizer updates")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    figure.suptitle(run_dir.name)
    path = run_dir / "curves.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
