"""launch/scaling.py as a command: help, the shipped studies, bad input, and a study that trains, is interrupted, and is continued."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes.modalities.registry import MODALITIES
from recipes.study.study_file import SHIPPED_STUDIES
from recipes.system.json_lines import read_rows
from tests.distributed import run_command
from tests.launching import ROOT, contents, launch, tiny_recipe
from tests.made_up import WRITE
from tests.tiny_study import BROKEN, compared, tiny_study

SCALING = ROOT / "launch" / "scaling.py"
INTERRUPTIONS = 5
ENV = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
STUDIES = sorted(path.stem for path in SHIPPED_STUDIES.glob("*.json"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return MODALITIES["text"].prepare(tiny_recipe("text", data__path=WRITE["text"](folder)), folder / "prepared", num_processes=1)


def test_a_grid_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    program = (
        f"import runpy, sys; sys.argv[1:] = ['grid', 'text_isoflop']\ntry: runpy.run_path({str(SCALING)!r}, run_name='__main__')\n"
        "finally: print({'torch', 'deepspeed', 'megatron', 'matplotlib', 'scipy', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    done = run_command([sys.executable, "-c", program], tmp_path, 30)
    assert (done.returncode, done.stderr) == (0, "set()\n")


@pytest.mark.parametrize("name", STUDIES)
def test_the_grid_of_a_shipped_study(name: str, tmp_path: Path) -> None:
    done = launch(SCALING, ["grid", name], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"study {name}: ") and "left out" not in done.stdout


@pytest.mark.parametrize("verb", ["grid", "submit", "status", "collect", "fit", "report"])
def test_bad_input_is_one_line_for_every_verb(verb: str, tmp_path: Path) -> None:
    study = tmp_path / "study.json"
    study.write_text(json.dumps({"name": "bad", "base": "text_tiny", "axes": {"optim.learning_rate": [1e-3]}}))
    done = launch(SCALING, [verb, study], tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {study}: axes: ") and done.stderr.count("\n") == 1
    assert contents(tmp_path) == {"study.json": study.read_bytes()}


def verb(name: str, study: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a verb of the study, and return its exit code and output."""
    return run_command([sys.executable, SCALING, name, study, *more], study.parent, 280, ENV)


@pytest.mark.slow
def test_a_cell_that_always_fails_is_tried_again_then_listed_and_the_others_are_collected(data: Path, tmp_path: Path) -> None:
    changes = [{"name": "good"}, {"name": "broken", **BROKEN}]
    study = tiny_study(tmp_path, data, axes={"change": changes}, seeds=[1])
    done = verb("submit", study, "--local", "2", "--retries", "1")
    assert done.returncode == 0 and "2 runs: 1 done, 1 failed" in done.stdout
    assert "failed for good: change-broken seed 1: collapsed" in done.stdout.replace("training has ", ""), done.stdout
    rows, _ = read_rows(tmp_path / "study" / "attempts.jsonl")
    assert [row["code"] for row in rows if row["run"].startswith("change-broken") and row["event"] == "end"] == [3, 3]
    assert "1 done, 1 failed" in verb("status", study).stdout
    assert verb("collect", study, "--dataset").returncode == 0
    states = {row["cell"]: row["state"] for row in compared(tmp_path / "study" / "table.csv")}
    assert states == {"change-good": "done", "change-broken": "failed"}
    refused = verb("fit", study)
    assert refused.returncode == 2 and "cannot be fitted" in refused.stderr and refused.stderr.count("\n") == 1
    assert verb("report", study).returncode == 0 and (tmp_path / "study" / "report.html").exists()
    again = verb("submit", study, "--local", "2", "--retries", "1")
    assert again.returncode == 0 and "started" not in again.stdout, again.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_of_12_runs_that_is_killed_5_times_has_the_same_table(data: Path, tmp_path: Path) -> None:
    """kill -9 of the driver, or of a run, at random times; then the same command."""
    tables = []
    for name in ("undisturbed", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        study = tiny_study(folder, data)
        if name == "killed":
            kill_at_random(study, random.Random(0))
        done = verb("submit", study, "--local", "2")
        assert done.returncode == 0 and "12 runs: 12 done" in done.stdout, done.stdout + done.stderr
        assert verb("collect", study).returncode == 0
        tables.append(compared(folder / "study" / "table.csv"))
    assert len(tables[0]) == 12 and tables[0] == tables[1]


def kill_at_random(study: Path, rng: random.Random) -> None:
    """Submit the study again and again, and each time kill the driver, or one of its runs and then the driver, after a few seconds."""
    words = [sys.executable, str(SCALING), "submit", str(study), "--local", "2"]
    for number in range(INTERRUPTIONS):
        driver = subprocess.Popen(words, cwd=study.parent, env={**os.environ, **ENV}, stdout=subprocess.DEVNULL)
        try:
            time.sleep(rng.uniform(4, 14))
            if number % 2 == 0 and (pids := running(study.parent / "study")):
                os.kill(rng.choice(pids), signal.SIGKILL)
                time.sleep(rng.uniform(0, 3))
        finally:
            driver.kill()
            driver.wait(10)


def running(out: Path) -> list[int]:
    """Return the processes of runs that are going on, by the study's log of starts."""
    last: dict[str, dict] = {row["run"]: row for row in read_rows(out / "attempts.jsonl")[0]}
    return [row["pid"] for row in last.values() if row["event"] == "begin" and Path(f"/proc/{row['pid']}").exists()]


@pytest.mark.slow
def test_ctrl_c_lets_the_runs_save_and_the_same_command_continues(data: Path, tmp_path: Path) -> None:
    study = tiny_study(tmp_path, data, axes={"run.max_steps": [20_000]}, seeds=[1], rules={"schedule": True})
    content = json.loads(study.read_text())
    del content["set"]["run.max_steps"]
    study.write_text(json.dumps(content))
    words = [sys.executable, str(SCALING), "submit", str(study), "--local", "1"]
    driver = subprocess.Popen(words, cwd=tmp_path, env={**os.environ, **ENV}, stdout=subprocess.PIPE, text=True)
    try:
        metrics = next(iter((tmp_path / "study").glob("cells/*/seed_1/metrics.jsonl")), None)
        deadline = time.monotonic() + 90
        while metrics is None and time.monotonic() < deadline:
            time.sleep(0.2)
            metrics = next(iter((tmp_path / "study").glob("cells/*/seed_1/metrics.jsonl")), None)
        assert metrics is not None
        driver.send_signal(signal.SIGINT)
        printed, _ = driver.communicate(timeout=120)
    finally:
        driver.kill()
    assert driver.returncode == 75 and "the same command continues" in printed, printed
    assert "1 stopped" in verb("status", study).stdout
    assert any((metrics.parent / "checkpoints").iterdir())
