"""The same run dir with another command: refused changes, accepted and recorded changes, and data that count as the same. Mostly text."""

import json
import os
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from recipes.data.prepare import prepare_text
from tests.launching import PRETRAIN, PRETRAIN_TEXT, ROOT, launch, overrides, read_jsonl, refused, start_ranks, tiny_recipe, write_files
from tests.made_up import write_book, write_pictures


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the run dir after two steps, which prepared its data itself."""
    return shutil.copytree(tiny_run, tmp_path / "run")


def go_on(run: Path, data: object, *args: object, steps: int = 4, **changes: object):  # type: ignore[no-untyped-def]
    command = ["--data", data, "--run-dir", run, *overrides(run__max_steps=steps, **changes), *args]
    return launch(PRETRAIN_TEXT, command, run.parent)


def test_a_change_is_refused_with_a_remedy_that_works_once_and_is_recorded(run: Path, tiny_text: Path) -> None:
    old, new = {"optim__lr": 0.002}, {"optim__lr": 0.001}
    done = go_on(run, tiny_text, **new)
    refused(done, r"\(1 differ: optim\.lr 0\.002 -> 0\.001\); undo them, accept them with --set run\.accept_changes=optim\.lr, or name")
    done = go_on(run, tiny_text, "--set", "run.accept_changes=optim.lr", **new)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nchanged: optim.lr 0.002 -> 0.001\n" in done.stdout
    (change,) = [event for event in read_jsonl(run / "events.jsonl") if event["event"] == "change"]
    assert (change["step"], change["fields"]) == (2, {"optim.lr": [0.002, 0.001]})
    assert read_jsonl(run / "metrics.jsonl")[-1]["lr"] == pytest.approx(0.001, rel=1e-3), "the cosine has hardly begun"
    assert go_on(run, tiny_text, steps=5, **new).returncode == 0, "by now it is the run's setting"
    refused(go_on(run, tiny_text, steps=6, **old), r"optim\.lr 0\.001 -> 0\.002")


def test_the_hint_of_a_finished_run_continues_it(tiny_text: Path, tmp_path: Path) -> None:
    """After its schedule a run would train at rate 0. The longer schedule must be accepted once."""
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
    tokenizer = run / "tokenizer.model"
    recipe = tiny_recipe(data__path=write_book(tmp_path / "other.txt", num_lines=500), data__tokenizer=tokenizer)
    other = prepare_text(recipe.data, recipe.frontend, tmp_path / "other", num_processes=1)
    done = go_on(run, other, steps=5)
    refused(done, rf"not those of the run \(fingerprint {before[:12]} -> \w{{12}}\); point --data at those, accept the others with --set")
    done = go_on(run, other, "--set", "run.accept_changes=data.path", steps=5)
    assert (done.returncode, done.stderr) == (0, "")
    (change,) = [event for event in read_jsonl(run / "events.jsonl") if event["event"] == "change"]
    assert change["fields"]["data_fingerprint"][0] == before and change["fields"]["data.path"] == [str(moved), str(other)]
    assert json.loads((run / "config.json").read_text())["data_fingerprint"] == change["fields"]["data_fingerprint"][1] != before


def test_raw_data_other_than_those_that_the_run_prepared_are_refused(run: Path, tmp_path: Path) -> None:
    done = go_on(run, write_book(tmp_path / "other.txt"))
    refused(
        done, r"prepared: prepared with data\.path .*book\.txt, now .*other\.txt; go back to that, accept the other with --set run\.acc"
    )


@pytest.mark.slow
def test_other_text_on_purpose_is_read_with_the_runs_tokenizer_in_one_command(run: Path, tmp_path: Path) -> None:
    """This works without the prepared folder or without the copy of the tokenizer, but not without both."""
    before, other = (run / "prepared" / "tokenizer.model").read_bytes(), write_book(tmp_path / "other.txt", num_lines=500)
    accept = ("--set", "run.accept_changes=data.path")
    (run / "tokenizer.model").unlink()
    done = go_on(run, other, *accept, steps=3)
    assert (done.returncode, done.stderr) == (0, "") and "\nchanged: data.path " in done.stdout
    shutil.rmtree(run / "prepared")
    done = go_on(run, write_book(tmp_path / "third.txt", num_lines=600), *accept)
    assert (done.returncode, done.stderr) == (0, "")
    assert before == (run / "prepared" / "tokenizer.model").read_bytes() == (run / "tokenizer.model").read_bytes()
    shutil.rmtree(run / "prepared")
    (run / "tokenizer.model").unlink()
    done = go_on(run, other, *accept, steps=5)
    refused(
        done,
        r"its tokenizer\.model .* is not that of the run \(sha256 \w{12}\), .*; put that file back as .*/run/tokenizer\.model, or name",
    )
    (run / "tokenizer.model").write_bytes(before)
    assert go_on(run, other, *accept, steps=5).returncode == 0, "as it says"


def test_a_prepared_folder_with_another_tokenizer_is_refused_in_any_case(run: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(data__path=write_book(tmp_path / "other.txt", num_lines=500))
    accept = ("--set", "run.accept_changes=data.path")
    done = go_on(run, prepare_text(recipe.data, recipe.frontend, tmp_path / "other", num_processes=1), *accept)
    refused(done, r"is not that of the run .*; prepare them again with --set data\.tokenizer=.*/run/tokenizer\.model, or name")
    recipe = tiny_recipe(data__path=tmp_path / "other.txt", data__tokenizer=run / "tokenizer.model")
    done = go_on(run, prepare_text(recipe.data, recipe.frontend, tmp_path / "again", num_processes=1), *accept)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_run_that_falls_back_to_an_older_checkpoint_reads_the_data_from_there(tmp_path: Path) -> None:
    raw = write_pictures(tmp_path / "raw")

    def train(run: Path, steps: int) -> list[dict[str, object]]:
        numbers = {"run__max_steps": steps, "run__save_steps": 2}
        done = launch(PRETRAIN["vision"], ["--data", raw, "--run-dir", run, *overrides("vision", **numbers)], tmp_path)
        assert done.returncode == 0, done.stderr
        return [{key: row[key] for key in ("step", "loss", "grad_norm")} for row in read_jsonl(run / "metrics.jsonl")]

    whole = train(tmp_path / "whole", 7)
    train(tmp_path / "run", 6)
    (damaged,) = (tmp_path / "run" / "checkpoints" / "step_00000006").glob("rank_*")
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    assert train(tmp_path / "run", 7) == whole
    assert [e["step"] for e in read_jsonl(tmp_path / "run" / "events.jsonl") if e["event"] in ("fallback", "resume")] == [6, 4]


@pytest.mark.slow
def test_text_that_was_changed_since_is_refused_until_it_is_accepted(run: Path, tiny_text: Path, tmp_path: Path) -> None:
    book = shutil.copy(tiny_text, tmp_path / "book.txt")
    shutil.rmtree(run / "prepared")
    assert go_on(run, book, steps=3).returncode == 0, "the same text elsewhere"
    write_book(book, num_lines=500)
    done = go_on(run, book)
    refused(
        done, r"prepared: 1 of 1 files hold something else than when it was prepared, such as .*/book\.txt; go back to that, accept the"
    )
    done = go_on(run, book, "--set", "run.accept_changes=data.path")
    assert (done.returncode, done.stderr) == (0, "")
    assert go_on(run, book, steps=5).returncode == 0, "by now they are the run's data"


@pytest.mark.slow
def test_pictures_that_were_replaced_are_refused_until_they_are_accepted(tmp_path: Path) -> None:
    raw, run = write_pictures(tmp_path / "raw"), tmp_path / "run"

    def train(steps: int, *args: object, **changes: object):  # type: ignore[no-untyped-def]
        numbers = {"run__max_steps": steps, "run__save_steps": 1} | changes
        return launch(PRETRAIN["vision"], ["--data", raw, "--run-dir", run, *overrides("vision", **numbers), *args], tmp_path)

    assert train(1).returncode == 0
    names, before = sorted(raw.glob("*.png")), json.loads((run / "config.json").read_text())["data_contents"]
    names[0].write_bytes(names[1].read_bytes())
    done = train(2)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"1 of {len(names)} files hold something else than when it was prepared, such as {names[0]}; they are read as" in done.stdout
    for name, other in pairwise(names):
        name.write_bytes(other.read_bytes())
    refused(
        train(3), rf"{len(names) - 1} of {len(names)} files hold something else .*; go back to that, accept the other with --set run\.acc"
    )
    shutil.rmtree(run / "prepared")  # prepared again, names, lengths and perhaps sizes are the same
    refused(train(3), r"not those of the run \((contents|fingerprint) \w{12} -> \w{12}\); .* --set run\.accept_changes=data\.path, or name")
    done = train(3, "--set", "run.accept_changes=data.path")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((run / "config.json").read_text())["data_contents"] != before and train(4).returncode == 0


def test_without_config_json_the_newest_manifest_is_compared(run: Path, tiny_text: Path) -> None:
    (run / "config.json").unlink()
    refused(go_on(run, tiny_text, optim__lr=0.001), r"\(1 differ: optim\.lr 0\.002 -> 0\.001\)")
    assert go_on(run, tiny_text).returncode == 0 and (run / "config.json").exists()


def test_a_first_attempt_without_an_update_binds_neither_settings_nor_data(tmp_path: Path) -> None:
    """It ends after its run dir was made, as when memory is out; here because no picture can be decoded."""
    write_files(tmp_path, {f"bad/{number:03}.png": b"no image" for number in range(20)})
    common = ("--run-dir", tmp_path / "run", *overrides("vision"))
    done = launch(PRETRAIN["vision"], ["--data", "bad", *common], tmp_path)
    refused(done, "none of 19 items can be decoded")
    assert (tmp_path / "run" / "config.json").exists() and not (tmp_path / "run" / "metrics.jsonl").exists()
    changes = ("--set", "run.seed=7", "--set", "data.heldout_fraction=0.3")
    done = launch(PRETRAIN["vision"], ["--data", write_pictures(tmp_path / "raw"), *common, *changes], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert not [event for event in read_jsonl(tmp_path / "run" / "events.jsonl") if event["event"] == "change"]


@pytest.mark.slow
def test_a_run_that_ended_because_of_bad_items_resumes_after_a_remedy(tmp_path: Path) -> None:
    """Of 38 pictures four cannot be decoded, one more than a small set may have. After removal, repair or permission the run resumes."""
    raw, run, updates = write_pictures(tmp_path / "raw"), tmp_path / "run", 9
    bad = [raw / f"{number:03}.png" for number in (7, 11, 20, 30)]
    whole = bad[0].read_bytes()
    for file in bad:
        file.write_bytes(whole[: len(whole) // 2])

    def train(run: Path, *args: object):  # type: ignore[no-untyped-def]
        numbers = {"run__max_steps": updates, "run__eval_steps": 100, "data__heldout_fraction": 0.01}
        return launch(PRETRAIN["vision"], ["--data", raw, "--run-dir", run, *overrides("vision", **numbers), *args], tmp_path)

    done = train(run)
    refused(
        done,
        r"4 of 39 items cannot be decoded, more than data\.max_bad_fraction 0\.01 allows \(3\): .* fix or remove them and give the same",
    )
    events = read_jsonl(run / "events.jsonl")
    (ended,) = [event["step"] for event in events if event["event"] == "error"]
    assert 0 < ended == max(event["step"] for event in events if event["event"] == "save")
    runs = [shutil.copytree(run, tmp_path / name) for name in ("removed", "repaired", "allowed")]
    remedy = done.stderr.rstrip().rpartition("or ")[2].split()
    outcomes = [train(runs[2], *remedy)]
    bad[0].write_bytes(whole)
    outcomes.append(train(runs[1]))
    bad[1].unlink()
    outcomes.append(train(runs[0]))
    for done in outcomes:
        assert (done.returncode, done.stderr) == (0, "") and f"resumed at step {ended} to {updates}" in done.stdout


def test_a_change_of_the_ds_config_is_printed_and_recorded(run: Path, tiny_text: Path) -> None:
    done = go_on(run, tiny_text, "--deepspeed_config", ROOT / "ds_configs" / "zero3_cpu_bf16.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nchanged: precision fp32 -> bf16" in done.stdout
    (change,) = [event for event in read_jsonl(run / "events.jsonl") if event["event"] == "change"]
    assert change["fields"]["precision"] == ["fp32", "bf16"] and change["step"] == 2


@pytest.mark.parametrize("size", [1, 2])
def test_a_config_json_that_cannot_be_written_is_one_line_on_all_ranks(tiny_prepared: Path, tmp_path: Path, size: int) -> None:
    args = ["--data", tiny_prepared, "--run-dir", tmp_path / "run", *overrides()]
    done = start_ranks(PRETRAIN_TEXT, args, tmp_path, size, file_limit=2000).wait()  # bytes: enough for a lock, too few for config.json
    refused(done[0], r"run/config\.json cannot be written \(File too large\), \d+ bytes free on that disk; fix that and give the same")
    assert all((one.returncode, one.stderr) == (2, "") for one in done[1:])
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.skipif(not os.path.isdir("/proc/1"), reason="a folder in which root cannot write either")
def test_a_run_dir_without_write_permission_is_one_line(tiny_prepared: Path, tmp_path: Path) -> None:
    done = launch(PRETRAIN_TEXT, ["--data", tiny_prepared, "--run-dir", "/proc/1", *overrides()], tmp_path)
    refused(done, r"--run-dir /proc/1: .*; name a folder that you may write to")
