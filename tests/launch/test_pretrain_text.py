"""launch/pretrain_text.py as a user meets it: help, dry run, bad input, signals, resuming. Training uses tests/launching.py's TINY."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_book
from tests.distributed import run_command
from tests.launching import PRETRAIN_TEXT, Running, launch, overrides, start

EVENT_KEYS = {"time", "event", "step"}
METRICS = {
    *("step", "loss", "grad_norm", "lr", "ema_decay", "target_std", "pred_std", "masked_fraction", "samples", "tokens", "step_seconds"),
    *("data_wait_seconds", "tokens_per_second", "mfu", "skipped_steps", "world_size", "tp_size"),
}
EVALUATION = {"eval_loss", "explained_variance", "target_rank", "neighbour_correlation", "frontend_std"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_python(cwd: Path, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return run_command([sys.executable, PRETRAIN_TEXT, *map(str, args)], cwd, 60, {"OMP_NUM_THREADS": "1", **env})


def test_help_has_an_example_and_is_quick_and_torch_free(tmp_path: Path) -> None:
    program = f"import runpy, sys; sys.argv[1:] = ['--help']\ntry: runpy.run_path({str(PRETRAIN_TEXT)!r}, run_name='__main__')\n"
    program += "finally: print({'torch', 'deepspeed', 'megatron', 'numpy'} & set(sys.modules), file=sys.stderr)"
    begin = time.perf_counter()
    done = run_command([sys.executable, "-c", program], tmp_path, 30)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert time.perf_counter() - begin < 5, "0.2 s on an idle machine"
    assert "deepspeed launch/pretrain_text.py" in done.stdout and "text_tiny" in done.stdout
    assert "--local_rank" not in done.stdout, "the launcher's flag is not the user's"


def test_a_dry_run_imagines_a_world(tmp_path: Path) -> None:
    done = run_python(tmp_path, "--recipe", "text_large", "--dry-run", WORLD_SIZE="64")
    assert (done.returncode, done.stderr) == (0, "")
    assert "batch: 256 samples = data-parallel 64 x micro 4 x accumulation 1; 64 ranks, tensor-parallel 1" in done.stdout
    assert "run dir: runs/text_large\n" in done.stdout
    assert contents(tmp_path) == {}


def ds_config(**content: object) -> dict[str, bytes]:
    return {"ds.json": json.dumps(content).encode()}


TP3 = ds_config(megatron={"tensor_model_parallel_size": 3})
TEXT = b"one two three four five six seven\n" * 30
BAD_FLAGS: dict[str, tuple[dict[str, bytes], list[str], dict[str, str], str]] = {
    "unknown recipe": ({}, ["--recipe", "text_huge"], {}, r"--recipe text_huge: unknown; there are text_tiny"),
    "unknown key": ({}, ["--set", "optim.warmup=1"], {}, r"did you mean optim\.warmup_steps"),
    "wrong type": ({}, ["--set", "run.max_steps=soon"], {}, r"run\.max_steps=soon: must be an integer"),
    "no value": ({}, ["--set", "run.max_steps"], {}, "no '=' in it"),
    "owned number": (ds_config(gradient_clipping=1.0), ["--deepspeed_config", "ds.json"], {}, r"--set optim\.clip_norm=1\.0"),
    "ZeRO stage": (ds_config(zero_optimization={"stage": 2}), ["--deepspeed_config", "ds.json"], {}, r"stage 2 is not supported"),
    "broken JSON": ({"ds.json": b'{\n "a": 1,,\n}'}, ["--deepspeed_config", "ds.json"], {}, r"ds\.json: broken JSON at line 2, column \d+"),
    "no ds_config": ({}, ["--deepspeed_config", "ds.json"], {}, r"ds\.json: No such file"),
    "batch": ({}, [], {"WORLD_SIZE": "3"}, r"run\.global_batch_size 8 is not a multiple of the data-parallel size 3"),
    "micro batch": (ds_config(train_micro_batch_size_per_gpu=3), ["--deepspeed_config", "ds.json"], {}, r"to 2 or 4$"),
    "heads": (
        TP3,
        ["--deepspeed_config", "ds.json"],
        {"WORLD_SIZE": "3"},
        r"num_attention_heads 2 is not a multiple of .* 3; it divides by 1, 2",
    ),
    "ranks": (TP3, ["--deepspeed_config", "ds.json"], {"WORLD_SIZE": "4"}, r"4 ranks are not a multiple of .* 3; start 6 ranks"),
    "positions": ({}, ["--set", "frontend.max_positions=31"], {}, r"max_positions 31 is less than data\.sequence_length 32"),
    "ranks no number": ({}, [], {"WORLD_SIZE": "many"}, r"WORLD_SIZE='many': must be integers"),
}
BAD_DATA: dict[str, tuple[dict[str, bytes], list[str], str]] = {
    "missing": ({}, ["--data", "nowhere.txt"], r"--data nowhere\.txt: no such file or folder"),
    "empty folder": ({"raw/.hidden": b"x"}, ["--data", "raw"], r"raw: no text in it"),
    "empty file": ({"book.txt": b"\n \n"}, ["--data", "book.txt"], r"book\.txt: no text in it"),
    "binary": ({"book.txt": b"good line\nbad \0 line\n"}, ["--data", "book.txt"], r"book\.txt line 2: a NUL byte"),
    "not UTF-8": ({"book.txt": b"good line\ncaf\xe9\n"}, ["--data", "book.txt"], r"book\.txt line 2: byte 0xe9 is not UTF-8"),
    "pictures": ({"raw/a.jpg": b"\xff\xd8"}, ["--data", "raw"], r"raw: no text in it, found 1 \.jpg"),
    "too few samples": (
        {"book.txt": TEXT},
        ["--data", "book.txt", "--set", "frontend.vocab_size=24", "--set", "run.global_batch_size=64"],
        r"the data has \d+ samples, fewer than one batch of 64; use more data or --set run\.global_batch_size=\d+",
    ),
    "vocabulary": ({"book.txt": TEXT}, ["--data", "book.txt"], r"vocab_size 200 is too large.*--set frontend\.vocab_size=\d+"),
    "run dir is a file": ({"run": b"mine"}, ["--run-dir", "run"], r"--run-dir run is a file; name a folder"),
    "run dir under a file": ({"notes": b"mine"}, ["--run-dir", "notes/run"], r"--run-dir notes/run: Not a directory; name a folder that"),
    "run dir in /proc": ({}, ["--run-dir", "/proc/data2vec/run"], r"--run-dir /proc/data2vec/run: .*; name a folder that you may write to"),
}


def refused(done: subprocess.CompletedProcess[str], complaint: str) -> None:
    """Exit code 2 and one line on stderr that says what to do."""
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"error: .*\n", done.stderr), f"one line, not: {done.stderr}"
    assert re.search(complaint, done.stderr.rstrip()), done.stderr


def make(folder: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return contents(folder)


@pytest.mark.parametrize("dry", [True, False], ids=["dry run", "run"])
@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags_are_one_line_and_leave_nothing(case: str, dry: bool, tmp_path: Path) -> None:
    files, args, env, complaint = BAD_FLAGS[case]
    before = make(tmp_path, files)
    refused(launch(PRETRAIN_TEXT, [*overrides(), *args, *(["--dry-run"] if dry else [])], tmp_path, env=env), complaint)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_and_places_are_one_line_and_leave_nothing(case: str, tmp_path: Path) -> None:
    files, args, complaint = BAD_DATA[case]
    before = make(tmp_path, files)
    refused(launch(PRETRAIN_TEXT, [*overrides(), *args], tmp_path), complaint)
    assert contents(tmp_path) == before


def test_a_full_disk_while_preparing_is_one_line_and_leaves_nothing(tmp_path: Path, tiny_text: Path) -> None:
    done = launch(PRETRAIN_TEXT, ["--data", tiny_text, "--run-dir", "a/run", *overrides()], tmp_path, file_limit=20_000)
    refused(done, r"a/run/prepared: cannot be written \(File too large\), \d+ bytes free on that disk; free space")
    assert contents(tmp_path) == {}


def test_an_unreachable_hub_is_one_line(tmp_path: Path) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = launch(PRETRAIN_TEXT, ["--data", "someone/something", "--run-dir", "run", *overrides()], tmp_path, env=nowhere)
    refused(done, r"--data someone/something: no such file or folder, and the hub does not give it")
    assert not (tmp_path / "run").exists()


def test_a_real_process_says_no_more_than_a_forked_one(tmp_path: Path, tiny_prepared: Path) -> None:
    """Here the libraries are imported by the command itself, so whatever they print is seen."""
    refused(run_python(tmp_path, "--data", "nowhere.txt"), "no such file or folder")
    assert contents(tmp_path) == {}
    done = run_python(tmp_path, "--data", tiny_prepared, *overrides())
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["text_tiny:", "1", "run", "step", "step", "done:", "next:"], (
        done.stdout
    )


def test_a_run_dir_has_what_the_product_promises(tiny_run: Path) -> None:
    names = {path.name for path in tiny_run.iterdir()} - {".lock", "curves.png"}
    assert names == {"config.json", "metrics.jsonl", "events.jsonl", "checkpoints", "prepared"}
    first, last = read_jsonl(tiny_run / "metrics.jsonl")
    assert set(first) == METRICS and set(last) == METRICS | EVALUATION
    assert (last["step"], last["samples"], last["tokens"], last["skipped_steps"], last["mfu"]) == (2, 16, 512, 0, None)
    events = read_jsonl(tiny_run / "events.jsonl")
    assert [event["event"] for event in events] == ["start", "save", "stop"] and all(set(event) >= EVENT_KEYS for event in events)
    config = json.loads((tiny_run / "config.json").read_text())
    assert {"recipe", "deepspeed", "versions", "git_commit", "command", "data_fingerprint", "world_size", "tp_size"} <= set(config)
    assert sorted(path.name for path in (tiny_run / "checkpoints").iterdir()) == ["latest", "step_00000002"]


def test_a_finished_run_says_so_and_changes_nothing(tiny_run: Path, tiny_text: Path) -> None:
    before = contents(tiny_run)
    done = launch(PRETRAIN_TEXT, ["--data", tiny_text, "--run-dir", tiny_run, *overrides()], tiny_run.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        rf"{tiny_run} is finished \(step_00000002\); --set run\.max_steps=N continues it, another --run-dir .*\n", done.stdout
    )
    assert {k: v for k, v in contents(tiny_run).items() if k != ".lock"} == {k: v for k, v in before.items() if k != ".lock"}


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--recipe", "text_base", *overrides()], r"holds a run of recipe text_tiny, not text_base"),
        (overrides(optim__lr=0.5), r"was started with other settings \(1 differ: optim\.lr 0\.002 -> 0\.5\)"),
    ],
    ids=["recipe", "rate"],
)
def test_a_run_dir_of_another_recipe_is_refused_untouched(tiny_run: Path, tiny_text: Path, args: list[str], complaint: str) -> None:
    before = contents(tiny_run / "checkpoints")
    refused(launch(PRETRAIN_TEXT, ["--data", tiny_text, "--run-dir", tiny_run, *args], tiny_run.parent), complaint)
    assert contents(tiny_run / "checkpoints") == before


def interrupt(running: Running, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    assert running.process.pid is not None
    os.kill(running.process.pid, number)
    return running.wait(30)


def num_lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def test_a_pre_empted_run_resumes_as_if_nothing_had_been(tmp_path: Path, tiny_prepared: Path) -> None:
    """SIGTERM: exit 75 with everything saved. The same command ends it, and every logged number is that of an undisturbed run.
    Meanwhile a second launch into the run dir is refused."""
    args = ["--data", tiny_prepared, *overrides(run__max_steps=60, run__save_steps=25, run__eval_steps=30)]
    run = tmp_path / "run"
    first = start(PRETRAIN_TEXT, [*args, "--run-dir", run], tmp_path)
    first.wait_until(lambda: num_lines(run / "metrics.jsonl") >= 3)
    second = start(PRETRAIN_TEXT, [*args, "--run-dir", run], tmp_path)
    os.kill(first.process.pid or 0, signal.SIGSTOP)  # the first one must not end before the second has looked
    refused(second.wait(), rf"--run-dir {run} is in use by pid {first.process.pid} on \S+ since .*; wait for it, stop it, or name another")
    os.kill(first.process.pid or 0, signal.SIGCONT)
    stopped = interrupt(first, signal.SIGTERM)
    assert (stopped.returncode, stopped.stderr) == (75, "")
    step = read_jsonl(run / "events.jsonl")[-1]["step"]
    assert f"stopped by SIGTERM at step {step}, saved; the same command continues" in stopped.stdout
    assert 3 <= step < 60 and (run / "checkpoints" / "latest").read_text() == f"step_{step:08d}\n"
    assert [row["step"] for row in read_jsonl(run / "metrics.jsonl")] == list(range(1, step + 1))

    for folder in (run, tmp_path / "whole"):
        done = launch(PRETRAIN_TEXT, [*args, "--run-dir", folder], tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert [event["event"] for event in read_jsonl(run / "events.jsonl") if event["event"] != "save"] == ["start", "stop", "resume", "stop"]
    resumed, whole = (read_jsonl(folder / "metrics.jsonl") for folder in (run, tmp_path / "whole"))
    timed = {"step_seconds", "data_wait_seconds", "tokens_per_second"}
    assert [{k: v for k, v in row.items() if k not in timed} for row in resumed] == [
        {k: v for k, v in row.items() if k not in timed} for row in whole
    ]
    assert len(whole) == 60


def long_preparation(tmp_path: Path) -> Running:
    """A launch that is in the middle of preparing 2 MB of text."""
    book = write_book(tmp_path / "line.txt")
    (tmp_path / "book.txt").write_text(book.read_text() * 50)
    book.unlink()
    running = start(PRETRAIN_TEXT, ["--data", "book.txt", *overrides()], tmp_path)
    running.wait_until(lambda: bool(list((tmp_path / "runs" / "text_tiny").glob(".prepared.*.tmp"))))
    return running


def test_an_interrupt_while_preparing_leaves_nothing(tmp_path: Path) -> None:
    done = interrupt(long_preparation(tmp_path), signal.SIGINT)
    assert (done.returncode, done.stderr) == (130, "interrupted; what was saved stays valid and the same command continues\n")
    assert [path.name for path in tmp_path.iterdir()] == ["book.txt"]


def test_after_a_kill_while_preparing_the_same_command_starts_over(tmp_path: Path) -> None:
    assert interrupt(long_preparation(tmp_path), signal.SIGKILL).returncode == -signal.SIGKILL
    run = tmp_path / "runs" / "text_tiny"
    assert not (run / "prepared").exists(), "half-done data would be taken for whole ones"
    shutil.copyfile(write_book(tmp_path / "line.txt"), tmp_path / "book.txt")
    done = launch(PRETRAIN_TEXT, ["--data", "book.txt", *overrides()], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(run.glob(".prepared.*")) and (run / "prepared" / "prepared.json").exists()
