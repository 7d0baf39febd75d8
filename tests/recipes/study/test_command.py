"""The verbs of launch/scaling.py, without a training: flags, order of the checks, and what is printed."""

import sys
from pathlib import Path
from typing import Any

import pytest

from recipes.errors import ConfigError
from recipes.study import command, local
from recipes.study.command import build_parser, open_study
from recipes.study.run_folder import write_records
from tests.made_up_study import made_up_run, made_up_study

DONE = (
    "import json, sys; from pathlib import Path; run = Path(sys.argv[1]); run.mkdir(parents=True, exist_ok=True)\n"
    "(run / 'events.jsonl').write_text(json.dumps({'event': 'start'}) + '\\n' + json.dumps({'event': 'stop', 'reason': 'done'}) + '\\n')\n"
)
FAILS = "import sys; print('error: no disk'); sys.exit(2)"


def said(*words: object) -> list[str]:
    found: list[str] = []
    args = build_parser("").parse_args([str(word) for word in words])
    assert args.run(args, found.append) == 0
    return found


@pytest.fixture
def trains(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function after which runs of this machine are scripts, and no data are prepared."""
    monkeypatch.setattr(local, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(command, "prepare_data", lambda study, runs, say: {run.key: study.out for run in runs})

    def trains(script: Any) -> None:
        monkeypatch.setattr(local, "local_command", lambda study, run, data: [sys.executable, "-c", script(run), str(run.path)])

    return trains


def test_grid_prints_the_cells_and_writes_their_records(tmp_path: Path) -> None:
    lines = said("grid", made_up_study(tmp_path))
    assert lines[0].startswith("study made_up: 4 cells x 2 seeds") and lines[-1] == "8 runs: 8 queued"
    assert len(list((tmp_path / "out" / "cells").glob("*/cell.json"))) == 4


def test_submit_here_trains_what_is_not_done(tmp_path: Path, trains: Any) -> None:
    path = made_up_study(tmp_path, axes={"model.hidden_size": [32, 64], "tokens": [1, 1e6]})
    study, cells, runs = open_study(path)
    write_records(study, cells)
    made_up_run(runs[0], score=0.3)
    trains(lambda run: FAILS if run.key == runs[1].key else DONE)
    lines = said("submit", path, "--local", 2, "--retries", 1)
    assert lines[0].startswith("hidden_size-32_tokens-1: left out, 1 tokens pay for") and "3 runs of 4 to train; 2 at a time" in lines
    assert lines[-3:] == [
        "4 runs: 3 done, 1 failed",
        f"failed for good: {runs[1].name}: no disk; --retries 2 tries it again",
        f"next: python launch/scaling.py collect {path}",
    ]
    trains(lambda run: DONE)
    assert said("submit", path, "--local", 2, "--retries", 1)[-3] == "4 runs: 3 done, 1 failed"
    assert said("submit", path, "--local", 2)[-2] == "4 runs: 4 done"


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--local", "2", "--limit", "3"], "leave one out"),
        (["--local", "2", "--sbatch", "--time=1"], "leave one out"),
        (["--local", "2", "--retries", "-1"], "--retries -1: must be a whole number from 0"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags: list[str], part: str, tmp_path: Path) -> None:
    if "--sbatch" in flags:
        flags = [*flags[:-2], "--sbatch=--time=1"]
    with pytest.raises(ConfigError, match=part):
        said("submit", made_up_study(tmp_path), *flags)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words", [[], ["gird"], ["grid"], ["submit", "x", "--local", "0"], ["submit", "x", "--retries", "x"], ["status", ""]]
)
def test_words_that_are_no_command_end_with_the_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as found:
        build_parser("").parse_args(words)
    assert found.value.code == 2 and "usage: " in capsys.readouterr().err


def test_status_has_a_line_for_each_run_and_each_cell_that_is_left_out(tmp_path: Path) -> None:
    path = made_up_study(tmp_path, axes={"tokens": [1, 1e6]})
    study, cells, runs = open_study(path)
    write_records(study, cells)
    made_up_run(runs[0], score=0.3, ended="failed")
    lines = said("status", path)
    assert lines[0].endswith("failed   the loss is not finite") and lines[1].endswith("queued") and lines[2] == "2 runs: 1 failed, 1 queued"
    assert lines[3].startswith("tokens-1: left out, ")


@pytest.mark.parametrize("verb", ["grid", "submit", "status", "collect"])
def test_a_changed_study_is_refused_by_every_verb_that_reads_runs(verb: str, tmp_path: Path) -> None:
    study, cells, runs = open_study(made_up_study(tmp_path))
    write_records(study, cells)
    made_up_run(runs[0], score=0.3)
    with pytest.raises(ConfigError, match=r"was changed under 1 cells that have runs: hidden_size-32_max_steps-20 \(optim.lr"):
        said(verb, made_up_study(tmp_path, set={"optim.lr": 0.5}))


def test_collect_writes_the_table_and_a_dataset(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    study, cells, runs = open_study(made_up_study(tmp_path))
    write_records(study, cells)
    made_up_run(runs[0], score=0.3)
    lines = said("collect", study.path, "--dataset")
    assert lines[-1] == f"written to {tmp_path / 'out' / 'dataset'}" and (tmp_path / "out" / "table.csv").exists()


@pytest.mark.parametrize("verb", ["fit", "report"])
def test_what_needs_a_table_names_the_verb_that_writes_it(verb: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"first: python launch/scaling\.py collect"):
        said(verb, made_up_study(tmp_path))


def test_submit_without_slurm_has_the_remedy(tmp_path: Path, trains: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no sinfo on this machine, so no Slurm; --local N"):
        said("submit", made_up_study(tmp_path))


def test_submit_to_slurm_leaves_alone_what_is_queued_done_or_has_failed_too_often(
    tmp_path: Path, trains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made_up_study(tmp_path, axes={"run.max_steps": [20, 40]})
    (tmp_path / "sbatch").write_text("#!/bin/sh\n[ -f $0.n ] && { echo 8; exit; }\n: > $0.n; echo 7\n")
    (tmp_path / "squeue").write_text("#!/bin/sh\nprintf '7 1 t PENDING None\\n7 2 t RUNNING None\\n'\n")
    (tmp_path / "sinfo").write_text("#!/bin/sh\n")
    for name in ("sbatch", "squeue", "sinfo"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    lines = said("submit", path, "--retries", "1", "--limit", "2")
    assert lines[0].startswith("job 7: 4 runs on 1 x 1 ranks each, at most 2 at a time") and lines[-1].startswith(
        "next: python launch/scaling.py status"
    )
    runs = open_study(path)[2]
    made_up_run(runs[2], score=0.3)
    assert said("submit", path, "--retries", "1")[0].startswith("job 8: 1 run on"), "the one that is gone"
    for task in ("7_4", "8_1"):
        (tmp_path / "out" / "logs" / f"slurm-{task}.out").touch()
    last = said("submit", path, "--retries", "1")
    assert last[0] == "4 runs: 1 queued, 1 running, 1 done, 1 failed" and last[1].startswith(f"failed for good: {runs[3].name}: ")
