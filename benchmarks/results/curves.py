"""Pictures of docs/results.md: what a task gains from more labelled examples. matplotlib."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from recipes.study.figure_style import ON_WHITE
from results.arms import Arms, finetune_name
from results.tasks import CONTROL, DATA2VEC, RANDOM, Task

NAMES = {DATA2VEC: "data2vec", CONTROL: "other objective", RANDOM: "random weights"}
BASELINE, DPI, INCHES = "simple baseline", 150, 2.9


def write_curves(folder: Path, arms: Arms) -> list[Path]:
    """Draw one picture for each modality of which something is finished, with axes for each task that has several numbers of labels. Return
    the files."""
    written = []
    for modality in dict.fromkeys(network.modality for network in arms.networks):
        tasks = [task for task in arms.tasks if task.modality == modality and len(task.budgets) > 1]
        if not any(arms.cells.get(finetune_name(task, budget, arm)) for task in tasks for budget in task.budgets for arm in NAMES):
            continue
        figure = Figure(figsize=(INCHES * len(tasks), INCHES), layout="constrained")
        for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
            _draw(axes, task, arms)
        figure.axes[0].legend(fontsize=7, frameon=False)
        path = folder / f"labels-{modality}.png"
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI)
        written.append(path)
    return written


def _draw(axes: Any, task: Task, arms: Arms) -> None:
    drawn = {arm: {b.labels: arms.cells.get(finetune_name(task, b, arm)) for b in task.budgets} for arm in arms.arms_of(task.modality)}
    drawn[BASELINE] = {budget.labels: arms.best_baseline(task, budget) for budget in task.budgets}
    for number, (name, cells) in enumerate(drawn.items()):
        ordered = [cells[budget.labels] for budget in task.budgets]
        found = {place: one for place, one in enumerate(ordered) if one and one["mean"] is not None}
        places, means = list(found), [one["mean"] for one in found.values()]
        errors = [one.get("standard_error") or 0.0 for one in found.values()]
        style = "--" if name == BASELINE else "-"
        axes.errorbar(places, means, errors, color=ON_WHITE.of(number), linestyle=style, marker="o", ms=3, label=NAMES.get(name, name))
    axes.set_xticks(range(len(task.budgets)), [str(budget.labels or "all") for budget in task.budgets])
    axes.set_title(task.data, fontsize=9)
    axes.set_xlabel("labelled examples", fontsize=8)
    axes.set_ylabel(task.metric, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(color=ON_WHITE.grid, linewidth=0.5)
