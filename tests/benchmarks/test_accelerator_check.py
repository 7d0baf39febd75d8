"""The whole command on the CPU, where every check must run or say why it cannot; and wrong input."""

import json
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
ON_DEVICE_ONLY = {"train text fp16", "train speech fp16", "train vision fp16", "gpu tests", "offload", "copies"}
"""They need a device that is not the host; fp16 is not on every CPU."""


@pytest.mark.slow
def test_on_the_cpu_every_check_is_ok_or_says_why_it_cannot_run(tmp_path: Path) -> None:
    start = time.monotonic()
    done = run_command([*COMMAND, "--device", "cpu", "--out", str(tmp_path)], cwd=ROOT, timeout=280)
    content = json.loads((tmp_path / "check.json").read_text())
    statuses = {check["name"]: check["status"] for check in content["checks"]}
    failed = [(check["name"], row) for check in content["checks"] for row in check["rows"] if row["status"] == "fail"]
    assert done.returncode == 0 and not failed, (failed, done.stderr)
    assert list(statuses) == list(all_checks()), "each once, in the order of the table"
    assert {name for name, status in statuses.items() if status == CANNOT} <= ON_DEVICE_ONLY
    assert all(statuses[name] == OK for name in all_checks().keys() - ON_DEVICE_ONLY)
    print(f"{time.monotonic() - start:.0f} s")  # 70 s alone on two cores


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_is_one_line(tmp_path: Path) -> None:
    done = run_command([*COMMAND, "--out", str(tmp_path / "out")], cwd=ROOT, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "--device cpu" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_check_is_one_line(tmp_path: Path) -> None:
    done = run_command([*COMMAND, "--device", "cpu", "--only", "shard", "--out", str(tmp_path)], cwd=ROOT, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("error: --only 'shard'") and done.stderr.count("\n") == 1


def test_a_failed_check_is_named_and_makes_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import torch\ntorch.Tensor.norm = lambda *args, **options: torch.tensor(float('nan'))\n")
    env = {"PYTHONPATH": str(tmp_path)}
    words = ["--device", "cpu", "--only", "accumulation", "copies", "--out", str(tmp_path / "out")]
    done = run_command([*COMMAND, *words], cwd=ROOT, timeout=120, env=env)
    assert done.returncode == 1 and "accumulation: fail" in done.stdout and "3 failed, 1 cannot run here" in done.stdout
    assert (tmp_path / "out" / "check.md").read_text().count("| fail |") == 3
