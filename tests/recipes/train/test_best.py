"""The best evaluation: which one it is, when a run ends early, and what holds if its checkpoint cannot be written."""

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.checkpoint.layout import Counters, best_folder, step_folder
from recipes.errors import ConfigError
from recipes.eval_config import EvalConfig
from recipes.train.best import BestEvaluation
from tests.distributed import run_distributed
from tests.recipes.checkpoint.topology import Topology, prepare_small, small_recipe

ACCURACY = EvalConfig(metric="accuracy", patience=2)
NAN = float("nan")


def noted(values: list[float], config: EvalConfig = ACCURACY) -> tuple[list[bool], BestEvaluation]:
    """Note evaluations after steps 1, 2, ..., of which every best one is saved. Return what note() returned, and the best one."""
    best, found = BestEvaluation(), []
    for step, value in enumerate(values, start=1):
        found.append(best.note(config, {"accuracy": value}, step))
        best.saved(step, is_written=True)
    return found, best


def test_only_a_better_value_is_the_best_and_nan_never_is() -> None:
    found, best = noted([NAN, 0.5, 0.5, 0.7, NAN, 0.6])
    assert found == [False, True, False, True, False, False]
    assert (best.value, best.step, best.num_since) == (0.7, 4, 2)
    found, best = noted([0.5, 0.6, 0.4], EvalConfig(metric="accuracy", goal="min"))
    assert found == [True, False, True] and best.value == 0.4


def test_a_run_ends_after_patience_evaluations_that_are_not_better_and_never_with_patience_0() -> None:
    assert [noted([0.5, 0.4, 0.3][:number])[1].is_exhausted(ACCURACY) for number in (1, 2, 3)] == [False, False, True]
    assert noted([NAN, NAN])[1].is_exhausted(ACCURACY)
    endless = EvalConfig(metric="accuracy")
    assert not noted([0.5] * 9, endless)[1].is_exhausted(endless)


def test_without_a_metric_or_without_its_value_nothing_is_noted() -> None:
    best = BestEvaluation()
    assert not best.note(EvalConfig(), {"accuracy": 1.0}, 1) and not best.note(ACCURACY, {"accuracy": None}, 1)
    assert not best.note(EvalConfig(metric="probe", probe_steps=2), {"eval_loss": 1.0}, 1), "an evaluation without a probe"
    assert best == BestEvaluation() and best.state(1) == {}


@pytest.mark.parametrize("metric", ["acuracy", "probe"])
def test_a_metric_that_is_not_measured_is_an_error(metric: str) -> None:
    with pytest.raises(ConfigError, match=f"eval.metric {metric} is not measured; there are eval_loss, accuracy;"):
        BestEvaluation().note(EvalConfig(metric=metric), {"eval_loss": 0.1, "accuracy": 0.5}, 1)


def test_a_checkpoint_gives_back_what_it_has_stored() -> None:
    _, best = noted([0.5, 0.7, 0.6])
    stored = json.loads(json.dumps(best.state(3)))
    assert stored == {"best": {"value": 0.7, "step": 2, "num_since": 1}}
    assert BestEvaluation.of(stored).state(3) == stored and BestEvaluation.of({}) == BestEvaluation()


def test_if_its_checkpoint_cannot_be_written_the_one_before_counts_and_a_later_one_can_be_the_best() -> None:
    _, best = noted([0.5, 0.4])
    assert best.note(ACCURACY, {"accuracy": 0.9}, 3)
    best.saved(3, is_written=False)
    assert best.state(3)["best"]["step"] == 3, "the same weights may be written after all"
    assert best.state(4)["best"] == {"value": 0.5, "step": 1, "num_since": 2}
    assert best.note(ACCURACY, {"accuracy": 0.8}, 5)
    best.saved(5, is_written=True)
    assert (best.value, best.step) == (0.8, 5)


def test_the_first_best_one_that_cannot_be_written_leaves_none() -> None:
    best = BestEvaluation()
    assert best.note(ACCURACY, {"accuracy": 0.9}, 1)
    best.saved(1, is_written=False)
    assert best.note(ACCURACY, {"accuracy": 0.1}, 2)
    assert best.state(2)["best"] == {"value": 0.1, "step": 2, "num_since": 0}


@pytest.mark.parametrize(("is_written", "left"), [(True, 0.6), (False, 0.5)])
def test_the_outcome_of_a_save_that_was_running_at_the_next_best_one_is_not_lost(is_written: bool, left: float) -> None:
    _, best = noted([0.5])
    assert best.note(ACCURACY, {"accuracy": 0.6}, 2) and best.note(ACCURACY, {"accuracy": 0.7}, 3)
    best.saved(2, is_written=is_written)
    assert best.value == 0.7
    best.saved(3, is_written=False)
    assert best.state(4)["best"]["value"] == left


def fail_on_a_full_disk(prepared: Path, folder: Path) -> dict[str, Any]:
    """Save the best steps 2 and 4, the second on a full disk. Return what checkpoints/best names after each, and at the end."""
    from recipes.checkpoint import layout
    from recipes.train.saving import Saving
    from tests.recipes.checkpoint.live_run import LiveRun

    run, best = LiveRun(small_recipe("text", "run.save_steps=3"), Topology(), prepared, folder), BestEvaluation()
    saving, named = Saving(run.saver, small_recipe("text", "run.save_steps=3"), {}, 0, None, best=best), list[str]()
    write = layout.write_text_atomically

    def refuse(path: Path, text: str) -> None:
        if path.name == "best" and text.strip() == step_folder(folder, 4).name:
            raise OSError(28, "No space left on device", str(path))
        write(path, text)

    layout.write_text_atomically = refuse
    for step, value in ((2, 0.5), (4, 0.9), (5, 0.4), (6, 0.7)):
        is_best = best.note(ACCURACY, {"accuracy": value}, step)
        saving.save_if_due(Counters(step=step), lambda step=step: {"loss_scaler": {}, **best.state(step)}, is_asked=is_best)
        if run.saver.is_busy:
            saving.collect(step)
        found = best_folder(folder)
        named.append(found.name if found else "none")
    return {"named": named, "value": best.value, "there": sorted(path.name for path in (folder / "checkpoints").iterdir())}


def test_a_full_disk_leaves_the_best_checkpoint_before_and_the_next_best_one_replaces_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    prepared = prepare_small("text", tmp_path / "data")
    found = run_distributed(fail_on_a_full_disk, 1, prepared, tmp_path / "run")[0]
    assert found["named"] == ["step_00000002", "step_00000002", "step_00000002", "step_00000006"], found
    assert found["value"] == 0.7
