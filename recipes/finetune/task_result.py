"""The results of fine-tuned runs: entries of results.json for one run, their mean over runs with other seeds, and the lines that a command
prints. Computes no metric. Torch-free."""

import math
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.config import Recipe
from recipes.finetune.results import Entry, canonical_name, read_results
from recipes.interop.task_facts import FINE_TUNED

PER_SEED = ("seeds", "steps", "checkpoints", "predictions", "times_scored")
"""Fields that are lists with one value for each seed. So are `values` and, of each metric, `metrics.NAME.values`."""
FAILED = "make it possible, and the same command scores the run"
"""Remedy if a file of the results cannot be written."""


@dataclass(frozen=True)
class SplitScore:
    """What a run has reached on one split: each metric's value."""

    split: str
    metrics: Mapping[str, float]
    num_samples: int
    predictions: Path
    chosen_on: bool = False
    """True: the best checkpoint was chosen on this split, so the value is too good. There was no labelled split to test on."""


def run_entry(recipe: Recipe, score: SplitScore, *, checkpoint: Path, step: int, started_from: str, times_scored: int = 1) -> Entry:
    """Return the entry of one run and one split. `checkpoint`: which was scored, of `step` updates. `started_from`: where the run's weights
    began, a path or random. `times_scored`: how often this run was scored on the split, each time with more updates."""
    main = main_metric(recipe.eval.metric, score.metrics)
    metrics = {name: _over([value]) for name, value in score.metrics.items()}
    return {
        "run": None,
        "task": recipe.finetune.task,
        "data": canonical_name(recipe.data.path),
        "label_column": getattr(recipe.data, "label_column", None),
        "split": score.split,
        "weights": FINE_TUNED,
        "metric": main,
        **metrics[main],
        "random_init": None,
        "from": started_from,
        "metrics": metrics,
        "num_test": score.num_samples,
        "chosen_on": score.chosen_on,
        "seeds": [recipe.run.seed],
        "steps": [step],
        "checkpoints": [str(checkpoint)],
        "predictions": [str(score.predictions)],
        "times_scored": [times_scored],
    }


def main_metric(wanted: str, metrics: Mapping[str, Any]) -> str:
    """Return the metric that stands for a result: `wanted`, that of eval.metric, if it was computed, else the first one."""
    return wanted if wanted in metrics else next(iter(metrics))


def seeds_entry(entries: Sequence[Entry]) -> Entry:
    """Return the entry of several seeds from theirs: values, mean, sample standard deviation and standard error of each metric."""
    first = entries[0]
    metrics = {name: _over([entry["metrics"][name]["mean"] for entry in entries]) for name in first["metrics"]}
    joined = {key: [value for entry in entries for value in entry[key]] for key in PER_SEED}
    return {**first, **metrics[first["metric"]], "metrics": metrics, **joined}


def _over(values: Sequence[float | None]) -> dict[str, Any]:
    """Return mean, sample standard deviation, standard error and values over seeds. What is not defined is None: both deviations of one
    seed, and all of a metric that is NaN for a seed, since JSON has no NaN."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    is_known = len(known) == len(values)
    std = statistics.stdev(known) if is_known and len(known) > 1 else None
    return {
        "mean": statistics.fmean(known) if is_known else None,
        "std": std,
        "standard_error": None if std is None else std / math.sqrt(len(known)),
        "values": [value if value in known else None for value in values],
    }


def scored_entries(folder: Path, recipe: Recipe) -> list[Entry]:
    """Return the entries of fine-tuning for the recipe's task in the folder's results.json, [] if there are none. Raises: ConfigError if
    the file cannot be read."""
    return [entry for entry in read_results(folder) if entry.get("weights") == FINE_TUNED and entry["task"] == recipe.finetune.task]


def result_lines(entries: Iterable[Entry]) -> list[str]:
    """Return a line for each entry: the split, its metrics, the main one first, and where the predictions are."""
    return [line for entry in entries for line in _lines_of(entry)]


def _lines_of(entry: Entry) -> list[str]:
    names = sorted(entry["metrics"], key=lambda name: name != entry["metric"])
    shown = "  ".join(_shown(name, entry["metrics"][name]) for name in names)
    count, seeds = f"{entry['num_test']:,} samples", len(entry["seeds"])
    over = f", {seeds} seeds" if seeds > 1 else ""
    note = ", on which the checkpoint was chosen, since no other split has labels" if entry["chosen_on"] else ""
    lines = [f"{entry['split']} ({count}{over}{note}): {shown}"]
    if seeds > 1:
        lines.append(f"  {entry['metric']} of each seed: {', '.join(map(_number, entry['values']))}")
    else:
        lines.append(f"  predictions: {entry['predictions'][0]}")
    return lines


def _shown(name: str, over: Mapping[str, Any]) -> str:
    error = f" +- {over['standard_error']:.4f}" if over["standard_error"] is not None else ""
    return f"{name} {_number(over['mean'])}{error}"


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"


def next_line(entry: Entry, refusal: str | None) -> str:
    """Return the line that says what can be done with the checkpoint of a scored run. `refusal`: why it cannot be exported; None if it
    can."""
    checkpoint = Path(entry["checkpoints"][0])
    run_dir = checkpoint.parent.parent
    if refusal:
        return f"no export to transformers: {refusal}; load_encoder and launch/embed.py read the run"
    out = run_dir.with_name(f"{run_dir.name}_export")
    return f"next: python launch/convert.py export --from {shlex.quote(str(checkpoint))} --out {shlex.quote(str(out))}"
