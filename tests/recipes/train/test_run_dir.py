"""A run directory has one owner and one recipe, its logs survive a crash, and a launch that never began leaves nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.config import Recipe, apply_overrides, recipe_to_dict
from recipes.errors import ConfigError
from recipes.text import text_base, text_tiny
from recipes.train.run_dir import FREE_TO_CHANGE, RunDir, check_same_recipe


def begun(path: Path, recipe: Recipe) -> RunDir:
    run_dir = RunDir(path)
    run_dir.save_config({"recipe": recipe_to_dict(recipe), "versions": {}})
    return run_dir


def test_a_second_owner_is_refused_with_the_first_ones_name(tmp_path: Path) -> None:
    first = RunDir(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"run is in use by pid \d+ on \S+ since [-\d]+ [:\d]+; wait for it, stop it, or name another"):
        RunDir(tmp_path / "run")
    first.save_config({})
    first.release()
    RunDir(tmp_path / "run").release()


def test_a_file_or_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="file is a file; name a folder"):
        RunDir(tmp_path / "file")
    with pytest.raises(ConfigError, match="Not a directory; name a folder that you may write to"):
        RunDir(tmp_path / "file" / "run")
    with pytest.raises(ConfigError, match="name a folder that you may write to"):
        RunDir(Path("/proc/run"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_launch_that_never_began_leaves_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    RunDir(tmp_path / "there" / "a" / "b").release()
    RunDir(tmp_path / "there").release()
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"], "the user's own empty folder stays, ours goes"


def test_what_someone_put_there_stays(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    (tmp_path / "run" / "prepared").mkdir()
    run_dir.release()
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "prepared"]


def test_a_run_that_began_keeps_everything(tmp_path: Path) -> None:
    begun(tmp_path / "run", text_tiny()).release()
    assert (tmp_path / "run" / "config.json").exists()


def test_the_same_recipe_may_come_back_with_other_limits(tmp_path: Path) -> None:
    recipe = text_tiny()
    run_dir = begun(tmp_path / "run", recipe)
    check_same_recipe(run_dir.path, recipe)
    run = replace(recipe.run, max_steps=9, log_steps=1, save_steps=2, eval_steps=3, eval_samples=4, wandb="offline")
    assert len([1 for key in FREE_TO_CHANGE if key.startswith("run.")]) == len(FREE_TO_CHANGE) == 6
    check_same_recipe(run_dir.path, replace(recipe, run=run))


def test_a_fresh_directory_takes_any_recipe(tmp_path: Path) -> None:
    check_same_recipe(tmp_path / "run", text_base())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (["optim.lr=1e-3"], r"\(1 differ: optim\.lr 0\.002 -> 0\.001\)"),
        (["run.seed=2"], r"run\.seed 1 -> 2"),
        (["run.global_batch_size=8"], r"run\.global_batch_size 16 -> 8"),
        (["optim.betas=0.9,0.99"], r"optim\.betas \[0\.9, 0\.98\] -> \[0\.9, 0\.99\]"),
        (["data.path=/x"], r"data\.path None -> /x"),
        (
            ["optim.lr=1", "mask.prob=0.1", "loss.beta=0", "optim.eps=1"],
            r"\(4 differ: loss\.beta 4\.0 -> 0\.0, mask\.prob 0\.3 -> 0\.1, optim\.eps",
        ),
    ],
)
def test_another_setting_is_refused_by_name_and_value(tmp_path: Path, changes: list[str], complaint: str) -> None:
    run_dir = begun(tmp_path / "run", text_tiny())
    with pytest.raises(ConfigError, match=complaint):
        check_same_recipe(run_dir.path, apply_overrides(text_tiny(), changes))


def test_another_recipe_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a run of recipe text_tiny, not text_base; name another"):
        check_same_recipe(begun(tmp_path / "run", text_tiny()).path, text_base())


def test_events_are_appended_with_time_and_facts(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.event("start", step=0)
    run_dir.event("save", step=3, seconds=0.5)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [(event["event"], event["step"]) for event in events] == [("start", 0), ("save", 3)]
    assert events[0]["time"] <= events[1]["time"] and events[1]["seconds"] == 0.5


@pytest.mark.parametrize("torn", ["", '{"step": 3, "lo'])
def test_metrics_past_the_checkpoint_and_a_torn_line_are_dropped(tmp_path: Path, torn: str) -> None:
    run_dir = RunDir(tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in (1, 2, 3, 4)) + torn)
    with run_dir.open_metrics(2) as file:
        file.write('{"step": 3, "again": true}\n')
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_metrics_of_a_new_run_start_empty_and_of_a_whole_one_stay_untouched(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.open_metrics(0).close()
    path = tmp_path / "run" / "metrics.jsonl"
    assert path.read_text() == ""
    path.write_text('{"step": 1}\n')
    before = path.stat().st_ino
    run_dir.open_metrics(1).close()
    assert path.read_text() == '{"step": 1}\n' and path.stat().st_ino == before
