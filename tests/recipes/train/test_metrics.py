"""metrics.jsonl and the terminal say what was measured, and wandb neither stops nor delays a run, reachable or not."""

import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from recipes.objectives.data2vec import Data2Vec
from recipes.plan.size import step_flops
from recipes.system.json_lines import JsonLines
from recipes.train import metrics as metrics_module
from recipes.train.metrics import Interval, MetricsWriter, device_peak_flops
from tests.distributed import run_command
from tests.launching import ROOT, tiny_recipe

CPU = torch.device("cpu")
STEP = {"loss": 0.1 + 0.2, "target_std": 0.9, "world_size": 1}


def writer_of(folder: Path, first_step: int = 0, **changes: object) -> MetricsWriter:
    """Into metrics.jsonl of a folder, shown as data2vec's metrics are."""
    lines, recipe = JsonLines(folder / "metrics.jsonl"), tiny_recipe(**changes)
    return MetricsWriter(lines, recipe, Data2Vec.display, folder, device=CPU, first_step=first_step)


def written(tmp_path: Path, *rows: dict, interval: Interval | None = None) -> list[dict]:
    path = tmp_path / "metrics.jsonl"
    writer = writer_of(tmp_path, run__max_steps=1000)
    for row in rows:
        writer.write(dict(row), interval or Interval(steps=4, seconds=2.0, tokens=600))
        assert path.read_text().endswith("}\n"), "every line is there as soon as it is written"
    writer.close()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rates_are_means_since_the_step_logged_before(tmp_path: Path) -> None:
    (row,) = written(tmp_path, {"step": 4, **STEP})
    assert (row["step_seconds"], row["tokens_per_second"], row["mfu"]) == (0.5, 300.0, None)


def test_floats_keep_full_precision(tmp_path: Path) -> None:
    (row,) = written(tmp_path, {"step": 4, **STEP})
    assert row["loss"] == 0.1 + 0.2 != 0.3


def test_mfu_is_the_share_of_all_devices_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "device_peak_flops", lambda device: 1e9)
    (row,) = written(tmp_path, {"step": 4, **STEP, "world_size": 8})
    assert row["mfu"] == pytest.approx(step_flops(tiny_recipe(), 600, 4 * 8) / 2.0 / 8e9)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("Tesla K80", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_the_peak_is_known_or_null(monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert device_peak_flops(torch.device("cuda")) == peak
    assert device_peak_flops(CPU) is None


class WandbStandIn(ModuleType):
    """wandb as far as it is called: what a run was begun with, and its rows. What the library makes of them: the tests below."""

    Error = RuntimeError

    def __init__(self) -> None:
        super().__init__("wandb")
        self.begun: dict[str, Any] = {}
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.finished = False

    def Settings(self, **options: Any) -> dict[str, Any]:  # noqa: N802 - the library's name
        return options

    def init(self, **options: Any) -> "WandbStandIn":
        self.begun = options
        return self

    def log(self, row: dict[str, Any], step: int) -> None:
        self.rows.append((step, row))

    def finish(self) -> None:
        self.finished = True


def test_wandb_gets_each_row_under_its_step_and_the_mode_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = WandbStandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    writer = writer_of(tmp_path, run__wandb="offline")
    for step in (4, 8):
        writer.write({"step": step, **STEP, "probe": None}, Interval(steps=4, seconds=2.0, tokens=600))
    writer.close()
    assert [(step, row["step"], row["loss"]) for step, row in wandb.rows] == [(4, 4, 0.1 + 0.2), (8, 8, 0.1 + 0.2)]
    assert not any("probe" in row for _, row in wandb.rows), "what is not known is left out"
    asked = {"project": "data2vec", "name": tmp_path.name, "group": tmp_path.name, "dir": str(tmp_path), "mode": "offline"}
    assert {name: wandb.begun[name] for name in asked} == asked and wandb.finished


PROGRAM = """
import sys, time
from pathlib import Path
import torch
from recipes.cluster.environment import quiet_libraries
from recipes.objectives.base import Display
from recipes.train import metrics
from recipes.system.json_lines import JsonLines
from tests.launching import tiny_recipe

if __name__ == "__main__":
    quiet_libraries()
    run_dir = Path(sys.argv[2])
    metrics.WANDB_PATIENCE_SECONDS = float(sys.argv[3])
    recipe, lines = tiny_recipe(run__wandb=sys.argv[1]), JsonLines(run_dir / "metrics.jsonl")
    display = Display((), (), {})
    writer = metrics.MetricsWriter(lines, recipe, display, run_dir, device=torch.device("cpu"), first_step=0)
    start = time.perf_counter()
    for step in (1, 2):
        writer.write({"step": step, "loss": 1.0, "target_std": 0.9, "world_size": 1, "probe": None}, metrics.Interval(1, 0.5, 10))
    print(f"wrote in {time.perf_counter() - start}")
    writer.close()
    print(f"closed in {time.perf_counter() - start}")
"""


def mirrored(mode: str, run_dir: Path, patience_seconds: float = 60.0, **env: str) -> tuple[float, float, str]:
    """Seconds of two writes, seconds until closed, stderr: of a run of its own process, for wandb starts another one. Where it
    answers it gets the time that it needs on a busy machine."""
    run_dir.mkdir()
    program = run_dir.parent / "program.py"
    program.write_text(PROGRAM)
    home = {"HOME": str(run_dir.parent), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_API_KEY": "", "NETRC": "/nowhere"}
    done = run_command([sys.executable, program, mode, run_dir, str(patience_seconds)], run_dir.parent, 120, {**home, **env})
    assert done.returncode == 0, done.stderr
    assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == 2
    wrote, closed = (float(line.split()[-1]) for line in done.stdout.splitlines()[-2:])
    assert wrote < 1.0, f"training waited {wrote} s for wandb"
    return wrote, closed, done.stderr


def test_wandb_offline_writes_into_the_run_dir_and_is_silent(tmp_path: Path) -> None:
    _, closed, stderr = mirrored("offline", tmp_path / "run")
    assert stderr == "" and closed < 60
    (record,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert b"target_std" in record.read_bytes()


def test_an_unreachable_wandb_is_said_once_and_waited_for_a_bounded_time(tmp_path: Path) -> None:
    start = time.perf_counter()
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}
    _, closed, stderr = mirrored("online", tmp_path / "run", 1.0, **nowhere)
    assert closed < 6 and time.perf_counter() - start < 60
    assert len(stderr.splitlines()) == 1 and stderr.startswith("wandb: "), stderr


def test_wandb_without_a_key_is_one_line(tmp_path: Path) -> None:
    _, _, stderr = mirrored("online", tmp_path / "run")
    assert len(stderr.splitlines()) == 1 and stderr.endswith("training goes on, metrics.jsonl has everything\n"), stderr
