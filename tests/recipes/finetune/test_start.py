"""One start of a fine-tuning command: which run is trained where, what is scored, and on which rank. Training is a stand-in."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.finetune import scoring, start
from recipes.finetune.start import Start
from tests.recipes.finetune.fake_seed import base_recipe


@dataclass
class Calls:
    """What a start has done, in order."""

    code: int = 0
    done: list[tuple[str, object]] = field(default_factory=list)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()

    def train(args: argparse.Namespace, unknown: list[str], make: object) -> int:
        calls.done.append(("train", args.run_dir))
        return calls.code

    monkeypatch.setattr(start, "train_command", train)
    monkeypatch.setattr(scoring, "score_run", lambda run_dir: calls.done.append(("score", run_dir)))
    monkeypatch.setattr(start, "run_seeds", lambda recipe, run_dir, command: calls.done.append(("seeds", run_dir)) or 75)
    monkeypatch.setattr(start, "report_seeds", lambda recipe, run_dir: calls.done.append(("report", run_dir)))
    return calls


def begin(run_dir: Path, seeds: int = 1, **flags: object) -> Start:
    args = {"run_dir": run_dir, "set": [f"finetune.seeds={seeds}"], "data": "data", "dry_run": False, "help_set": None} | flags
    return Start(argparse.Namespace(**args), [], lambda writes: base_recipe(1))


def test_a_run_is_scored_after_training(calls: Calls, tmp_path: Path) -> None:
    assert begin(tmp_path).run() == 0
    assert calls.done == [("train", tmp_path), ("score", tmp_path)]


@pytest.mark.parametrize("code", [75, 2, 3])
def test_a_run_that_did_not_end_is_not_scored(code: int, calls: Calls, tmp_path: Path) -> None:
    calls.code = code
    assert begin(tmp_path).run() == code and calls.done == [("train", tmp_path)]


def test_a_dry_run_and_help_score_nothing(calls: Calls, tmp_path: Path) -> None:
    for flags in ({"dry_run": True}, {"help_set": ""}, {"dry_run": True, "set": ["finetune.seeds=3"]}):
        assert begin(tmp_path, **flags).run() == 0
    assert calls.done == [("train", tmp_path)] * 3


def test_other_ranks_leave_after_training(calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert begin(tmp_path).run() == 0 and calls.done == [("train", tmp_path)]


def test_several_seeds_return_their_exit_code(calls: Calls, tmp_path: Path) -> None:
    assert begin(tmp_path, 3).run() == 75 and calls.done == [("seeds", tmp_path)]


def test_a_task_of_an_array_runs_its_seed_in_its_own_folder(calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    one = begin(tmp_path, 3)
    assert one.run() == 0
    assert calls.done == [("train", tmp_path / "seed_2"), ("score", tmp_path / "seed_2"), ("report", tmp_path)]
    assert one.args.set[-2:] == ["run.seed=2", "finetune.seeds=1"]
    calls.done.clear()
    assert begin(tmp_path / "b").run() == 0 and calls.done[0] == ("train", tmp_path / "b"), "one seed is no matter of arrays"


def test_an_error_of_the_flags_is_reported_by_the_training_command(calls: Calls, tmp_path: Path) -> None:
    def fail(writes: bool) -> None:
        raise ConfigError("no such run")

    one = Start(begin(tmp_path).args, [], fail)  # type: ignore[arg-type]
    assert one.run() == 0 and calls.done == [("train", tmp_path)]
