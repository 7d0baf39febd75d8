"""The same run dir with another command: what is refused, what is accepted and written down, and which data are the same data. Text."""

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

from recipes.data.prepare import prepare_text
from tests.launching import PRETRAIN_TEXT, launch, overrides, read_jsonl, refused, start_ranks, tiny_recipe
from tests.made_up import write_book


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the run dir after two steps, which prepared its data itself."""
    return shutil.copytree(tiny_run, tmp_path / "run")


def go_on(run: Path, data: object, *args: object, steps: int = 4, **changes: object):  # type: ignore[no-untyped-def]
    command = ["--data", data, "--run-dir", run, *overrides(run__max_steps=steps, **changes), *args]
    return launch(PRETRAIN_TEXT, command, run.parent)


def test_a_change_is_refused_with_the_remedy_which_works_once_and_is_written_down(run: Path, tiny_text: Path) -> None:
    old, new = {"optim__lr": 0.002}, {"optim__lr": 0.001}
    done = go_on(run, tiny_text, **new)
    refused(done, r"\(1 differ: optim\.lr 0\.002 -> 0\.001\); undo them, accept them with --set run\.accept_changes=optim\.lr, or name")
    done = go_on(run, tiny_text, "--set", "run.accept_changes=optim.lr", **new)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nchanged: optim.lr 0.002 -> 0.001\n" in done.stdout
    (change,) = [event for event in read_jsonl(run / "events.jsonl") if event["event"] == "change"]
    assert (change["step"], change["fields"]) == (2, {"optim.lr": [0.002, 0.001]})
    assert read_jsonl(run / "metrics.jsonl")[-1]["lr"] == pytest.approx(0.001, rel=1e-3), "the cosine has hardly begun"
    assert go_on(run, tiny_text, steps=5, **new).returncode == 0, "it is the run's own by now"
    refused(go_on(run, tiny_text, steps=6, **old), r"optim\.lr 0\.001 -> 0\.002")


def test_the_line_of_a_finished_run_is_a_command_that_goes_on(tiny_text: Path, tmp_path: Path) -> None:
    """Behind its schedule a run would train at rate 0; the longer schedule must be accepted once."""
    run, changes = tmp_path / "run", {"optim__schedule_steps": 2, "optim__warmup_steps": 1}
    assert go_on(run, tiny_text, steps=2, **changes).returncode == 0
    said = go_on(run, tiny_text, steps=2, **changes).stdout
    assert said.startswith(f"{run} is finished (step_00000002); at learning rate 0, the end of optim.schedule_steps 2; ")
    for args in ([], ["--dry-run"]):
        refused(go_on(run, tiny_text, *args, steps=4, **changes), r"run\.max_steps 4 is more than optim\.schedule_steps 2, .* rate is 0")
    words = shlex.split(said.partition("; --set ")[1] + said.partition("; --set ")[2].partition(" continues it")[0])[1:]
    assert words[1::2] == ["run.max_steps=4", "optim.schedule_steps=4", "run.accept_changes=optim.schedule_steps"]
    done = go_on(run, tiny_text, *words, steps=2, **changes)
    assert (done.returncode, done.stderr) == (0, "") and "\nchanged: optim.schedule_steps 2 -> 4\n" in done.stdout
    assert [row["lr"] > 0 for row in read_jsonl(run / "metrics.jsonl")] == [False, True, True, True], "the first is that of the warm-up"


@pytest.mark.parametrize("spelling", ["absolute", "relative", "link"])
def test_data_may_be_named_in_another_way(tiny_text: Path, tmp_path: Path, spelling: str) -> None:
    shutil.copy(tiny_text, tmp_path / "book.txt")
    (tmp_path / "link.txt").symlink_to("book.txt")
    run = tmp_path / "run"
    first = {"absolute": "./book.txt", "relative": tmp_path / "book.txt", "link": "book.txt"}[spelling]
    then = {"absolute": tmp_path / "book.txt", "relative": "book.txt", "link": "link.txt"}[spelling]
    for data, steps in ((first, 2), (then, 3)):
        done = go_on(run, data, steps=steps)
        assert (done.returncode, done.stderr) == (0, "")
    assert not [event for event in read_jsonl(run / "events.jsonl") if event["event"] == "change"]


def test_a_prepared_folder_may_move_and_other_data_are_refused_by_their_fingerprint(run: Path, tiny_text: Path, tmp_path: Path) -> None:
    before = json.loads((run / "config.json").read_text())["data_fingerprint"]
    moved = shutil.move(run / "prepared", tmp_path / "moved")
    done = go_on(run, moved)
    assert (done.returncode, done.stderr) == (0, "")
    recipe = tiny_recipe(data__path=write_book(tmp_path / "other.txt", num_lines=500))
    other = prepare_text(recipe.data, recipe.frontend, tmp_path / "other", num_processes=1)
    done = go_on(run, other, steps=5)
    refused(done, rf"not those of the run \(fingerprint {before[:12]} -> \w{{12}}\); point --data at those, accept the others with --set")
    done = go_on(run, other, "--set", "run.accept_changes=data.path", steps=5)
    assert (done.returncode, done.stderr) == (0, "")
    (change,) = [event for event in read_jsonl(run / "events.jsonl") if event["event"] == "change"]
    assert change["fields"]["data_fingerprint"][0] == before and change["fields"]["data.path"] == [str(moved), str(other)]
    assert json.loads((run / "config.json").read_text())["data_fingerprint"] == change["fields"]["data_fingerprint"][1] != before


def test_other_raw_data_in_place_of_those_that_the_run_prepared_are_refused(run: Path, tmp_path: Path) -> None:
    done = go_on(run, write_book(tmp_path / "other.txt"))
    refused(done, r"prepared: prepared with data\.path .*book\.txt, now .*other\.txt; remove it or")


@pytest.mark.parametrize("size", [1, 2])
def test_a_disk_that_refuses_config_json_is_one_line_on_all_ranks(tiny_prepared: Path, tmp_path: Path, size: int) -> None:
    args = ["--data", tiny_prepared, "--run-dir", tmp_path / "run", *overrides()]
    done = start_ranks(PRETRAIN_TEXT, args, tmp_path, size, file_limit=2000).wait()  # bytes: a lock fits, that does not
    refused(done[0], r"run/config\.json cannot be written \(File too large\), \d+ bytes free on that disk; mend that and give the same")
    assert all((one.returncode, one.stderr) == (2, "") for one in done[1:])
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.skipif(not os.path.isdir("/proc/1"), reason="a folder in which root cannot write either")
def test_a_run_dir_without_write_permission_is_one_line(tiny_prepared: Path, tmp_path: Path) -> None:
    done = launch(PRETRAIN_TEXT, ["--data", tiny_prepared, "--run-dir", "/proc/1", *overrides()], tmp_path)
    refused(done, r"--run-dir /proc/1: .*; name a folder that you may write to")
