"""The three pre-training commands as a user runs them, in what they share: help, dry run, bad flags, run dir, signals, resuming.
Training uses TINY of tests/launching.py on made-up data. Tests of one modality are in their own files in this folder."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.distributed import run_command
from tests.launching import PRETRAIN, Running, contents, launch, overrides, read_jsonl, refused, start, write_files

EVENT_KEYS = {"time", "event", "step"}
METRICS = {
    *("step", "loss", "grad_norm", "lr", "ema_decay", "target_std", "pred_std", "masked_fraction", "samples", "tokens", "step_seconds"),
    *("data_wait_seconds", "tokens_per_second", "mfu", "skipped_steps", "world_size", "tp_size", "peak_memory_bytes"),
}
EVALUATION = {"eval_loss", "explained_variance", "target_rank", "neighbour_correlation", "frontend_std"}
TIMED = {"step_seconds", "data_wait_seconds", "tokens_per_second", "peak_memory_bytes"}

QUICK_FOR_TEXT = pytest.mark.parametrize(
    "modality", [name if name == "text" else pytest.param(name, marks=pytest.mark.slow) for name in PRETRAIN], indirect=True
)
"""Of the three modalities only text is quick."""


def run_python(modality: str, cwd: Path, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return run_command([sys.executable, PRETRAIN[modality], *map(str, args)], cwd, 120, {"OMP_NUM_THREADS": "1", **env})


def test_help_has_an_example_and_is_quick_and_torch_free(modality: str, tmp_path: Path) -> None:
    program = f"import runpy, sys; sys.argv[1:] = ['--help']\ntry: runpy.run_path({str(PRETRAIN[modality])!r}, run_name='__main__')\n"
    program += "finally: print({'torch', 'deepspeed', 'megatron', 'numpy'} & set(sys.modules), file=sys.stderr)"
    begin = time.perf_counter()
    done = run_command([sys.executable, "-c", program], tmp_path, 30)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert time.perf_counter() - begin < 5, "0.2 s on an idle machine"
    assert f"deepspeed launch/pretrain_{modality}.py" in done.stdout and f"{modality}_tiny, {modality}_small" in done.stdout
    assert "--local_rank" not in done.stdout, "the flag is for launchers, not for users"


@pytest.mark.parametrize(
    ("modality", "plan"),
    [
        ("text", "256 samples = data-parallel 64 x micro 4 x accumulation 1"),
        ("speech", "320 samples = data-parallel 64 x micro 1 x accumulation 5"),
        ("vision", "4096 samples = data-parallel 64 x micro 64 x accumulation 1"),
    ],
)
def test_a_dry_run_plans_for_a_simulated_world(modality: str, plan: str, tmp_path: Path) -> None:
    done = run_python(modality, tmp_path, "--recipe", f"{modality}_large", "--dry-run", WORLD_SIZE="64")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"batch: {plan}; 64 ranks, tensor-parallel 1" in done.stdout
    assert f"run dir: runs/{modality}_large\n" in done.stdout
    assert contents(tmp_path) == {}


def ds_config(**content: object) -> dict[str, bytes]:
    return {"ds.json": json.dumps(content).encode()}


MINE = ["--deepspeed_config", "ds.json"]
TP2, TP3 = (ds_config(megatron={"tensor_model_parallel_size": size}) for size in (2, 3))
BAD_FLAGS: dict[str, tuple[dict[str, bytes], list[str], dict[str, str], str]] = {
    "unknown recipe": ({}, ["--recipe", "other_huge"], {}, r"--recipe other_huge: unknown; there are \w+_tiny"),
    "unknown key": ({}, ["--set", "optim.warmup=1"], {}, r"did you mean optim\.warmup_steps"),
    "unknown inner key": ({}, ["--set", "model.drop_path=1"], {}, r"did you mean model\.block\.drop_path"),
    "wrong type": ({}, ["--set", "run.max_steps=soon"], {}, r"run\.max_steps=soon: must be an integer"),
    "no value": ({}, ["--set", "run.max_steps"], {}, "no '=' in it"),
    "mask": ({}, ["--set", "teacher.average_top_k_layers=2"], {}, r"average_top_k_layers 2 of model\.num_layers 1"),
    "owned number": (ds_config(gradient_clipping=1.0), MINE, {}, r"--set optim\.clip_norm=1\.0"),
    "ZeRO stage": (ds_config(zero_optimization={"stage": 2}), MINE, {}, r"stage is 2, must be 3"),
    "broken JSON": ({"ds.json": b'{\n "a": 1,,\n}'}, MINE, {}, r"ds\.json: broken JSON at line 2, column \d+"),
    "no ds_config": ({}, MINE, {}, r"ds\.json: No such file"),
    "batch": ({}, [], {"WORLD_SIZE": "3"}, r"run\.global_batch_size 8 is not a multiple of the data-parallel size 3"),
    "micro batch": (ds_config(train_micro_batch_size_per_gpu=3), MINE, {}, r"to 2 or 4$"),
    "heads": (
        TP3,
        MINE,
        {"WORLD_SIZE": "3"},
        r"num_attention_heads 2 is not a multiple of .* 3; in the ds_config's section megatron set it to 1 or 2",
    ),
    "ranks": (TP2, MINE, {"WORLD_SIZE": "3"}, r"3 ranks are not a multiple of .* 2; start 4 ranks"),
    "ranks no number": ({}, [], {"WORLD_SIZE": "many"}, r"WORLD_SIZE='many': must be a whole number from 1"),
}
BAD_PLACES: dict[str, tuple[dict[str, bytes], list[str], str]] = {
    "missing": ({}, ["--data", "nowhere.txt"], r"--data nowhere\.txt: no such file or folder"),
    "run dir is a file": ({"run": b"mine"}, ["--run-dir", "run"], r"--run-dir run is a file; name a folder"),
    "run dir under a file": ({"notes": b"mine"}, ["--run-dir", "notes/run"], r"--run-dir notes/run: Not a directory; name a folder that"),
    "run dir in /proc": ({}, ["--run-dir", "/proc/data2vec/run"], r"--run-dir /proc/data2vec/run: .*; name a folder that you may write to"),
}


@pytest.mark.parametrize("dry", [True, False], ids=["dry run", "run"])
@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags_are_one_line_and_leave_nothing(modality: str, case: str, dry: bool, tmp_path: Path) -> None:
    files, args, env, complaint = BAD_FLAGS[case]
    before = write_files(tmp_path, files)
    done = launch(PRETRAIN[modality], [*overrides(modality), *args, *(["--dry-run"] if dry else [])], tmp_path, env=env)
    refused(done, complaint)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("case", BAD_PLACES)
def test_bad_paths_are_one_line_and_leave_nothing(modality: str, case: str, tmp_path: Path) -> None:
    files, args, complaint = BAD_PLACES[case]
    before = write_files(tmp_path, files)
    refused(launch(PRETRAIN[modality], [*overrides(modality), *args], tmp_path), complaint)
    assert contents(tmp_path) == before


def test_fewer_samples_than_a_batch_are_refused_and_nothing_is_left(modality: str, tiny_data: Path, tmp_path: Path) -> None:
    args = ["--data", tiny_data, *overrides(modality, run__global_batch_size=4096)]
    refused(launch(PRETRAIN[modality], args, tmp_path), r"the data has \d+ samples, fewer than one batch of 4096; use more data or --set")
    assert contents(tmp_path) == {}


def test_an_unreachable_hub_is_one_line(modality: str, tmp_path: Path) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    args = ["--data", "owner/name", "--run-dir", "run", *overrides(modality)]
    done = launch(PRETRAIN[modality], args, tmp_path, env=nowhere)
    refused(done, r"--data owner/name: no such file or folder, and the hub does not give it")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@QUICK_FOR_TEXT
def test_a_real_process_prints_no_more_than_a_forked_one(modality: str, tiny_data: Path, tmp_path: Path) -> None:
    """Here the command itself imports the libraries, so their output is part of the test."""
    done = run_python(modality, tmp_path, "--data", tiny_data, *overrides(modality))
    assert (done.returncode, done.stderr) == (0, "")
    # The processor decides whether there is a line about bf16.
    said = [line.split()[0] for line in done.stdout.splitlines() if not line.startswith("fp32; ")]
    block = [f"{modality}_tiny:", "1", "update", "run", "ready"]
    assert said[-10:] == [*block, "step", "step", "done:", "curves:", "next:"], done.stdout


def test_a_run_dir_has_the_files_of_product_md(modality: str, tiny_done: Path) -> None:
    names = {path.name for path in tiny_done.iterdir()} - {".lock", "curves.png"}
    kept = {"tokenizer.model"} if modality == "text" else set()
    assert names == {"config.json", "metrics.jsonl", "events.jsonl", "checkpoints", "prepared", "watch"} | kept
    first, last = read_jsonl(tiny_done / "metrics.jsonl")
    assert set(first) == METRICS and set(last) == METRICS | EVALUATION
    assert (last["step"], last["samples"], last["skipped_steps"], last["mfu"]) == (2, 16, 0, None)
    tokens = {"text": 2 * 8 * 32, "vision": 2 * 8 * 16}
    assert last["tokens"] == tokens.get(modality, last["tokens"]) > 0 and 0 < last["masked_fraction"] < 1
    events = read_jsonl(tiny_done / "events.jsonl")
    assert [event["event"] for event in events] == ["start", "save", "stop"] and all(set(event) >= EVENT_KEYS for event in events)
    config = json.loads((tiny_done / "config.json").read_text())
    assert {"recipe", "deepspeed", "versions", "git_commit", "command", "data_fingerprint", "world_size", "tp_size"} <= set(config)
    assert sorted(path.name for path in (tiny_done / "checkpoints").iterdir()) == ["latest", "step_00000002"]


def test_a_finished_run_is_reported_and_unchanged_except_for_curves_that_a_kill_prevented(
    modality: str, tiny_done: Path, tiny_data: Path
) -> None:
    before = contents(tiny_done)
    (tiny_done / "curves.png").unlink()
    done = launch(PRETRAIN[modality], ["--data", tiny_data, "--run-dir", tiny_done, *overrides(modality)], tiny_done.parent)
    assert (done.returncode, done.stderr) == (0, "")
    finished = rf"{tiny_done} is finished \(step_00000002\); --set run\.max_steps=N continues it, N up to \S+ \d+; another --run-dir .*"
    assert re.fullmatch(finished, done.stdout.splitlines()[-1])
    assert {k: v for k, v in contents(tiny_done).items() if k != ".lock"} == {k: v for k, v in before.items() if k != ".lock"}


@pytest.mark.parametrize("wrong", ["recipe", "rate"])
def test_a_run_dir_of_another_recipe_is_refused_untouched(modality: str, tiny_done: Path, tiny_data: Path, wrong: str) -> None:
    before = contents(tiny_done / "checkpoints")
    args, complaint = {
        "recipe": (["--recipe", f"{modality}_base", *overrides(modality)], rf"holds a run of recipe {modality}_tiny, not {modality}_base"),
        "rate": (overrides(modality, optim__lr=0.5), r"was started with other settings \(1 differ: optim\.lr 0\.00\d -> 0\.5\)"),
    }[wrong]
    refused(launch(PRETRAIN[modality], ["--data", tiny_data, "--run-dir", tiny_done, *args], tiny_done.parent), complaint)
    assert contents(tiny_done / "checkpoints") == before


def interrupt(running: Running, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    assert running.process.pid is not None
    os.kill(running.process.pid, number)
    return running.wait(60)


def num_lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


@QUICK_FOR_TEXT
def test_a_pre_empted_run_resumes_as_if_undisturbed(modality: str, tiny_done: Path, tmp_path: Path) -> None:
    """SIGTERM: exit code 75, with everything saved. The same command finishes the run, with every logged number of an undisturbed run.
    A second launch into the run dir at the same time is refused."""
    script = PRETRAIN[modality]
    args = ["--data", tiny_done / "prepared", *overrides(modality, run__max_steps=60, run__save_steps=25, run__eval_steps=30)]
    run = tmp_path / "run"
    first = start(script, [*args, "--run-dir", run], tmp_path)
    first.wait_until(lambda: num_lines(run / "metrics.jsonl") >= 3)
    second = start(script, [*args, "--run-dir", run], tmp_path)
    os.kill(first.process.pid or 0, signal.SIGSTOP)  # the first run must not end before the second has checked the lock
    refused(second.wait(), rf"--run-dir {run} is in use by pid {first.process.pid} on \S+ since .*; wait for it, stop it, or name another")
    os.kill(first.process.pid or 0, signal.SIGCONT)
    stopped = interrupt(first, signal.SIGTERM)
    assert (stopped.returncode, stopped.stderr) == (75, "")
    step = read_jsonl(run / "events.jsonl")[-1]["step"]
    assert f"stopped by SIGTERM at step {step}, saved; the same command continues" in stopped.stdout
    assert 3 <= step < 60 and (run / "checkpoints" / "latest").read_text() == f"step_{step:08d}\n"
    assert [row["step"] for row in read_jsonl(run / "metrics.jsonl")] == list(range(1, step + 1))

    for folder in (run, tmp_path / "whole"):
        done = launch(script, [*args, "--run-dir", folder], tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert [event["event"] for event in read_jsonl(run / "events.jsonl") if event["event"] != "save"] == ["start", "stop", "resume", "stop"]
    resumed, whole = (read_jsonl(folder / "metrics.jsonl") for folder in (run, tmp_path / "whole"))
    assert [{k: v for k, v in row.items() if k not in TIMED} for row in resumed] == [
        {k: v for k, v in row.items() if k not in TIMED} for row in whole
    ]
    assert len(whole) == 60
