"""GLUE's average: the score of each task and their mean, from the results.json of eight fine-tuned runs. Torch-free. The command is
launch/glue_average.py.

Source: data2vec, table 4, is the mean of eight tasks on validation data: MNLI counts once, as the mean of matched and mismatched; CoLA is
Matthews' correlation; WNLI is left out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from recipes.data.glue import GLUE
from recipes.errors import ConfigError
from recipes.finetune.results import read_results

VALIDATION = {"mnli": ("valid", "validation_mismatched")}
"""Splits in results.json whose mean is the score of a task; of all other tasks `valid`."""


def glue_average(scores: Mapping[str, Sequence[float]]) -> float:
    """Return the mean over GLUE's tasks. `scores`: task -> its value on each validation split, of which MNLI has two. Raises: ConfigError
    if a task is missing."""
    missing = [name for name in GLUE if not scores.get(name)]
    if missing:
        raise ConfigError(f"GLUE's average is of {len(GLUE)} tasks; there are no results of {', '.join(missing)}; name their runs too")
    return sum(sum(scores[name]) / len(scores[name]) for name in GLUE) / len(GLUE)


def read_scores(runs: Sequence[Path]) -> dict[str, list[float]]:
    """Return the scores of GLUE's tasks on their validation splits, from the results.json of fine-tuned runs. Raises: ConfigError if a
    file cannot be read, if a task is in two runs, or if MNLI has one of its splits only."""
    scores: dict[str, list[float]] = {}
    for run in runs:
        found = {(entry["task"], entry.get("split")): entry.get("mean") for entry in read_results(run)}
        for task in sorted({task for task, _ in found if task in GLUE}):
            if task in scores:
                raise ConfigError(f"{run}: has results of {task}, as an earlier run has; name one run of each task")
            values = [found.get((task, split)) for split in VALIDATION.get(task, ("valid",))]
            if None in values:
                raise ConfigError(
                    f"{run}: its results of {task} lack a validation split; let the run end, and do not change data.test_splits"
                )
            scores[task] = [float(value) for value in values if value is not None]
    return scores


def score_lines(scores: Mapping[str, Sequence[float]]) -> list[str]:
    """Return one line for each task, and one with the average, all times 100. Raises: ConfigError if a task is missing."""
    average = glue_average(scores)
    return [*(f"{task:5} {' / '.join(f'{100 * value:.1f}' for value in scores[task])}" for task in GLUE), f"GLUE  {100 * average:.1f}"]
