"""What a card says about the task of a fine-tuned run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.checkpoint.layout import Counters, Manifest
from recipes.interop.stored_run import StoredRun
from recipes.interop.task_facts import SHOWN, best_of, listed, task_facts
from recipes.text import text_base
from tests.recipes.interop.task_runs import task_recipe

ENTRY = {"weights": "fine-tuned", "task": "pairs", "split": "test", "metric": "accuracy", "mean": 0.75, "num_test": 1200, "steps": [7]}


def stored(run_dir: Path, name: str = "pairs") -> StoredRun:
    return StoredRun(run_dir, run_dir / "checkpoints" / "step_00000007", task_recipe(name))


def manifest(best: dict[str, Any], step: int = 7) -> Manifest:
    return Manifest(Counters(step, step, 0, 0), 1, 1, {}, (), {"best": best})


def test_task_labels_and_the_best_validation_value_are_named(tmp_path: Path) -> None:
    found = task_facts(stored(tmp_path), manifest({"value": 0.5, "step": 7, "num_since": 0}))
    assert found["task"] == "pairs (classify)" and found["labels"] == "`no`, `yes`, `it's open`"
    assert found["validation"].startswith("accuracy 0.5000; ")
    assert task_facts(stored(tmp_path, "letters"), manifest({}))["alphabet"].startswith("`<pad>`, `<s>`")


def test_a_checkpoint_that_is_not_the_best_one_has_no_validation_value(tmp_path: Path) -> None:
    assert "validation" not in task_facts(stored(tmp_path), manifest({"value": 0.5, "step": 5, "num_since": 1}))
    assert "validation" not in task_facts(stored(tmp_path), manifest({}))
    assert best_of(stored(tmp_path), manifest({"value": None})) == ""


def test_the_scores_of_the_task_are_those_of_results_json(tmp_path: Path) -> None:
    others = [ENTRY | {"weights": "student", "mean": 0.1}, ENTRY | {"task": "other"}, ENTRY | {"split": "b", "mean": None}, "x"]
    (tmp_path / "results.json").write_text(json.dumps([ENTRY, *others]))
    found = task_facts(stored(tmp_path), manifest({}))
    assert {name: value for name, value in found.items() if name.startswith("result")} == {
        "result on test": "accuracy 0.7500, 1,200 samples, checkpoint of step 7"
    }


def test_a_damaged_results_json_has_no_scores(tmp_path: Path) -> None:
    for text in ("{", "{}", "[1]"):
        (tmp_path / "results.json").write_text(text)
        assert not [name for name in task_facts(stored(tmp_path), manifest({})) if name.startswith("result")]


def test_a_pre_trained_run_has_no_task(tmp_path: Path) -> None:
    assert task_facts(replace(stored(tmp_path), recipe=text_base()), manifest({"value": 0.5, "step": 7})) == {}


def test_of_many_labels_the_first_are_listed_and_the_rest_counted() -> None:
    assert listed(tuple("ab")) == "`a`, `b`" and listed(("a",) * (SHOWN + 5)).endswith("`a` and 5 more")
