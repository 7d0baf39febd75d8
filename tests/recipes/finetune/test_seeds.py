"""Several seeds of one command: folders, what is skipped, exit codes, results over all, Slurm arrays. The runs are stand-ins without torch;
real ones are in tests/launch/test_finetune_seeds.py."""

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.finetune import seeds
from recipes.finetune.child import Children
from recipes.finetune.results import NAME, read_results
from recipes.finetune.seeds import (
    Alone,
    active_run,
    array_task,
    check_layout,
    is_finished,
    report_seeds,
    run_one_after_another,
    seed_folder,
    seed_recipe,
    seed_settings,
    share_prepared,
)
from recipes.settings import apply_overrides, recipe_to_dict
from tests.launching import ROOT
from tests.recipes.finetune.fake_seed import base_recipe

COMMAND = [sys.executable, "-m", "tests.recipes.finetune.fake_seed"]
Run = Callable[..., int]


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def run(tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a function that runs all seeds in tmp_path and returns the exit code."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(num_seeds: int = 3, **plan: object) -> int:
        (tmp_path / "plan.json").write_text(json.dumps({key.removeprefix("seed_"): value for key, value in plan.items()}))
        with Children() as children:
            return run_one_after_another(base_recipe(num_seeds), tmp_path, COMMAND, children, Alone(), say=lines.append)

    return run


def starts(run_dir: Path) -> list[int]:
    return [int(line) for line in (run_dir / "starts.txt").read_text().split()]


def test_results_over_three_seeds_are_mean_deviation_and_error_by_hand(run: Run, tmp_path: Path, lines: list[str]) -> None:
    assert run() == 0 and starts(tmp_path) == [1, 2, 3]
    (entry,) = read_results(tmp_path)
    assert entry["values"] == [0.7, 0.9, 0.8] and entry["seeds"] == [1, 2, 3]
    assert (entry["mean"], entry["std"]) == (pytest.approx(0.8), pytest.approx(0.1))
    assert entry["standard_error"] == pytest.approx(0.1 / math.sqrt(3))
    assert "test (10 samples, 3 seeds): accuracy 0.8000 +- 0.0577" in lines
    assert lines[-1] == f"written to {tmp_path / NAME}"
    assert json.loads((seed_folder(tmp_path, 2) / "config.json").read_text())["recipe"]["run"]["seed"] == 2


@pytest.mark.parametrize("code", [2, 3, 75, 1])
def test_the_exit_code_is_that_of_the_first_seed_that_fails_and_the_same_command_continues(code: int, run: Run, tmp_path: Path) -> None:
    assert run(seed_2=code) == code and starts(tmp_path) == [1, 2]
    assert not (tmp_path / NAME).exists()
    assert run() == 0 and starts(tmp_path) == [1, 2, 2, 3], "seed 1 is not run again"
    interrupted = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).unlink()
    assert run() == 0 and starts(tmp_path) == [1, 2, 2, 3] and (tmp_path / NAME).read_bytes() == interrupted


def test_more_seeds_continue_with_the_new_ones(run: Run, tmp_path: Path) -> None:
    assert run(2) == 0 and read_results(tmp_path)[0]["values"] == [0.7, 0.9]
    assert run(3) == 0 and starts(tmp_path) == [1, 2, 3] and read_results(tmp_path)[0]["values"] == [0.7, 0.9, 0.8]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_stop_request_in_seed_2_stops_it_and_starts_no_other(number: signal.Signals, run: Run, tmp_path: Path) -> None:
    def stop() -> None:
        while not (tmp_path / "starts.txt").exists() or starts(tmp_path) != [1, 2]:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    assert run(seed_2="wait") == 75 and starts(tmp_path) == [1, 2]


def test_a_stop_request_that_comes_when_a_seed_is_done_starts_no_other(tmp_path: Path, lines: list[str]) -> None:
    class DoneChildren(Children):
        def run(self, command: object, env: object) -> int:
            self.reason = "SIGTERM"
            return 0

    code = run_one_after_another(base_recipe(3), tmp_path, COMMAND, DoneChildren(), Alone(), say=lines.append)
    assert code == 75 and lines[-1] == "stopped by SIGTERM before seed 2 of 3; the same command continues"


def test_a_seed_is_finished_when_it_is_scored_with_the_same_settings(run: Run, tmp_path: Path) -> None:
    recipe = base_recipe(3)
    assert not is_finished(tmp_path, recipe, 1)
    run(seed_2=2)
    assert is_finished(tmp_path, recipe, 1) and not is_finished(tmp_path, recipe, 2)
    assert not is_finished(tmp_path, apply_overrides(recipe, ["run.max_steps=12345"]), 1)


def test_the_recipe_of_a_seed_is_what_its_settings_make() -> None:
    recipe = apply_overrides(base_recipe(3), ["run.seed=40"])
    assert recipe_to_dict(seed_recipe(recipe, 3)) == recipe_to_dict(apply_overrides(recipe, seed_settings(recipe, 3)))
    assert seed_recipe(recipe, 1).run.seed == 40


def test_results_that_cannot_be_written_are_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(ConfigError, match=r"results\.json") as caught:
        run()
    assert "\n" not in str(caught.value)
    (tmp_path / NAME).rmdir()
    assert run() == 0 and starts(tmp_path) == [1, 2, 3]


def test_tasks_of_an_array_run_one_seed_each_and_the_last_one_writes_the_results(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setenv(seeds.ARRAY_TASK, "2")
    assert array_task(3) == 2
    run(2)
    (tmp_path / NAME).unlink()
    report_seeds(base_recipe(3), tmp_path, lines.append)
    assert lines[-1] == "2 of 3 seeds are scored; the last one writes the results over all" and not (tmp_path / NAME).exists()
    for text in ("0", "4", "x"):
        monkeypatch.setenv(seeds.ARRAY_TASK, text)
        with pytest.raises(ConfigError, match="submit with --array=1-3"):
            array_task(3)
    monkeypatch.delenv(seeds.ARRAY_TASK)
    assert array_task(3) is None


def test_one_run_and_several_seeds_do_not_share_a_folder(tmp_path: Path) -> None:
    check_layout(tmp_path, 1)
    check_layout(tmp_path, 3)
    seed_folder(tmp_path, 1).mkdir()
    check_layout(tmp_path, 3)
    with pytest.raises(ConfigError, match="holds runs of several seeds"):
        check_layout(tmp_path, 1)
    (tmp_path / "config.json").touch()
    with pytest.raises(ConfigError, match="holds a run of one seed"):
        check_layout(tmp_path, 3)


def test_prepared_data_are_linked_and_those_of_a_seed_stay(tmp_path: Path) -> None:
    share_prepared(tmp_path, 1)
    assert not seed_folder(tmp_path, 1).exists(), "there is nothing to share yet"
    first = seed_folder(tmp_path, 1) / "prepared"
    (first / "sub").mkdir(parents=True)
    for name in ("prepared.json", "sub/train.npz"):
        (first / name).write_text(name)
    share_prepared(tmp_path, 2)
    second = seed_folder(tmp_path, 2) / "prepared"
    assert (second / "sub" / "train.npz").samefile(first / "sub" / "train.npz")
    (second / "prepared.json").unlink()
    (second / "prepared.json").write_text("own")
    share_prepared(tmp_path, 2)
    assert (second / "prepared.json").read_text() == "own" and (first / "prepared.json").read_text() == "prepared.json"


def test_without_links_a_seed_prepares_its_data_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = seed_folder(tmp_path, 1) / "prepared"
    first.mkdir(parents=True)
    (first / "prepared.json").touch()
    monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(OSError(1, "Operation not permitted")))
    share_prepared(tmp_path, 2)
    assert not (seed_folder(tmp_path, 2) / "prepared").exists()


def test_the_active_run_is_that_with_the_newest_event(tmp_path: Path) -> None:
    assert active_run(tmp_path) == tmp_path
    for number, age in ((1, 5), (2, 1), (3, 9)):
        folder = seed_folder(tmp_path, number)
        folder.mkdir()
        (folder / "events.jsonl").touch()
        os.utime(folder / "events.jsonl", (1000 - age, 1000 - age))
    assert active_run(tmp_path) == seed_folder(tmp_path, 2)
