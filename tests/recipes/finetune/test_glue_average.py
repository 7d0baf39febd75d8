"""GLUE's average is the mean of eight tasks, of which MNLI is the mean of two splits."""

from pathlib import Path

import pytest

from recipes.data.glue import GLUE
from recipes.errors import ConfigError
from recipes.finetune.glue_average import glue_average, read_scores, score_lines
from recipes.finetune.results import add_result
from tests.launching import ROOT, launch, refused

SCRIPT = ROOT / "launch" / "glue_average.py"
TABLE = {"mnli": (83.2, 83.0), "qnli": (90.9,), "rte": (67.0,), "mrpc": (90.2,), "qqp": (89.1,), "stsb": (87.2,), "cola": (62.2,)}
TABLE["sst2"] = (91.8,)
"""data2vec, table 4, the row of data2vec with 15 % masked words."""


def write_runs(folder: Path, tasks: list[str]) -> list[Path]:
    for task in tasks:
        (folder / task).mkdir()
        for split, value in zip(("valid", "validation_mismatched"), TABLE[task], strict=False):
            add_result(folder / task, {"task": task, "split": split, "metric": "any", "mean": value / 100, "weights": "student"})
        add_result(folder / task, {"task": task, "split": "test", "metric": "any", "mean": 0.0, "weights": "student"})
    return [folder / task for task in tasks]


def test_the_average_of_the_papers_table_is_the_papers() -> None:
    assert round(glue_average(TABLE), 1) == 82.7


def test_the_scores_are_read_from_the_runs(tmp_path: Path) -> None:
    done = launch(SCRIPT, write_runs(tmp_path, list(GLUE)), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == score_lines(read_scores([tmp_path / task for task in GLUE]))
    assert "mnli  83.2 / 83.0" in done.stdout and done.stdout.endswith("GLUE  82.7\n")


def test_a_missing_task_is_one_line(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, [task for task in GLUE if task not in ("rte", "cola")])
    refused(launch(SCRIPT, runs, tmp_path), "of 8 tasks; there are no results of cola, rte; name their runs too")


def test_two_runs_of_a_task_or_half_of_mnli_are_one_line(tmp_path: Path) -> None:
    (run,) = write_runs(tmp_path, ["rte"])
    with pytest.raises(ConfigError, match="has results of rte, as an earlier run has; name one run of each task"):
        read_scores([run, run])
    (tmp_path / "half").mkdir()
    add_result(tmp_path / "half", {"task": "mnli", "split": "valid", "mean": 0.8})
    with pytest.raises(ConfigError, match="its results of mnli lack a validation split"):
        read_scores([tmp_path / "half"])
