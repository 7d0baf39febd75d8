"""The whole command on the CPU, where every check must run or report why it cannot; and wrong input."""

import fcntl
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from accelerator.checks import all_checks
from accelerator.result import CANNOT, OK
from tests.distributed import run_command

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "benchmarks/accelerator_check.py"]
FP16 = {"train text fp16", "train speech fp16", "train vision fp16", "fine-tune text fp16"}
ON_DEVICE_ONLY = FP16 | {"gpu tests", "offload", "copies"}
"""Checks that may report `cannot run here` on a CPU: they need a GPU, or fp16, which not every CPU has."""


@pytest.mark.slow
def test_on_the_cpu_every_check_is_ok_or_reports_why_it_cannot_run(tmp_path: Path) -> None:
    done = run_command([*COMMAND, "--device", "cpu", "--out", str(tmp_path)], cwd=ROOT, timeout=280)
    content = json.loads((tmp_path / "check.json").read_text())
    statuses = {check["name"]: check["status"] for check in content["checks"]}
    failed = [(check["name"], row) for check in content["checks"] for row in check["rows"] if row["status"] == "fail"]
    assert done.returncode == 0 and not failed, (failed, done.stderr)
    assert list(statuses) == list(all_checks()), "each once, in the order of the table"
    assert {name for name, status in statuses.items() if status == CANNOT} <= ON_DEVICE_ONLY
    assert all(statuses[name] == OK for name in all_checks().keys() - ON_DEVICE_ONLY)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_is_one_line(tmp_path: Path) -> None:
    done = run_command([*COMMAND, "--out", str(tmp_path / "out")], cwd=ROOT, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "--device cpu" in done.stderr
    assert not (tmp_path / "out" / "check.md").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "shard", "--out", "out"], "error: --only 'shard': no such check; there are \"shards\", "),
        (["--only", "images", "--short", "--out", "out"], "error: --only with --short leaves no check; the short ones are shards, "),
        (["--only", "copies", "--out", "file"], "error: --out file: File exists; name a folder"),
        (["--only", "copies", "--out", "file/below"], "error: --out file/below: Not a directory; name a folder"),
        (["--only", "copies", "--out", "locked"], "error: --out locked: another check writes there; wait"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "locked").mkdir()
    with (tmp_path / "locked" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, str(ROOT / "benchmarks" / "accelerator_check.py"), "--device", "cpu", *words]
        done = run_command(command, cwd=tmp_path, timeout=60, env={"RANK": "1", "WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"})
    assert done.returncode == 2 and done.stderr.startswith(said) and done.stderr.count("\n") == 1, done.stderr


def restore_interrupts() -> None:
    """Restore the default action of SIGINT in a new process. A shell's background processes ignore SIGINT, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)])
def test_an_interrupt_keeps_the_results_so_far_and_prints_where(number: signal.Signals, code: int, tmp_path: Path) -> None:
    words = ["--device", "cpu", "--only", "golden", "step text_base", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*COMMAND, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=restore_interrupts
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "logs" / "golden.log").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code and stderr == f"interrupted; {tmp_path}/check.md has what was found\n", stderr
    checks = json.loads((tmp_path / "check.json").read_text())["checks"]
    assert [(check["name"], check["rows"][-1]["seen"]) for check in checks] == [
        ("golden", "interrupted"),
        ("step text_base", "interrupted"),
    ]


@pytest.mark.slow
def test_a_closed_stdout_does_not_stop_the_checks(tmp_path: Path) -> None:
    command = f"{shlex.join(COMMAND)} --device cpu --only copies offload --out {tmp_path} | head -0"
    done = run_command(["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    assert [check["status"] for check in json.loads((tmp_path / "check.json").read_text())["checks"]] == [CANNOT, CANNOT]


@pytest.mark.slow
def test_a_failed_check_makes_the_exit_code_and_files_of_the_user_stay(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import PIL.Image\nPIL.Image.fromarray = None\n")
    for name in ("check.md", "train.log", "logs/old.log", "scratch/other/file"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("| of a run before | fail |")
    words = ["--device", "cpu", "--only", "images", "copies", "--out", str(tmp_path / "out")]
    done = run_command([*COMMAND, *words], cwd=ROOT, timeout=120, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and "images: fail" in done.stdout and "0 rows ok, 1 failed, 1 cannot run here" in done.stdout, done.stdout
    assert "  the check itself: raised TypeError: 'NoneType' object is not callable" in done.stdout
    assert (tmp_path / "out" / "check.md").read_text().count("| fail |") == 1
    assert (tmp_path / "out" / "train.log").exists() and (tmp_path / "out" / "scratch/other/file").exists()
    assert not (tmp_path / "out" / "logs/old.log").exists(), "logs/ is the command's own"
