"""The comparison of two runs covers every tensor and metric."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from accelerator.result import FAIL, OK
from accelerator.training import STEPS, finite_row, same_bits_row

METRICS = {"loss": 2.0, "grad_norm": 1.0, "skipped_steps": 0, "step_seconds": 1.0}


def write_run(run_dir: Path, tensors: dict[str, torch.Tensor] | None = None, **last: Any) -> Path:
    """Write the files of a finished run."""
    folder = run_dir / "checkpoints" / f"step_{STEPS:08d}"
    folder.mkdir(parents=True)
    save_file(tensors or {"a": torch.tensor([0.0, 1.0])}, folder / "rank_00000.safetensors")
    rows = [METRICS | {"step": step} | (last if step == STEPS else {}) for step in range(1, STEPS + 1)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run_dir


def test_equal_runs_are_equal_whatever_time_they_took(tmp_path: Path) -> None:
    row = same_bits_row(write_run(tmp_path / "a"), write_run(tmp_path / "b", step_seconds=9.0), "twice")
    assert (row.status, row.seen) == (OK, "the same bits in 1 tensors")


@pytest.mark.parametrize(
    ("tensors", "last", "seen"),
    [
        ({"a": torch.tensor([-0.0, 1.0])}, {}, "1 of 1 tensors differ, most by 0.0e+00 (a)"),
        ({"a": torch.tensor([0.0, 1.5])}, {}, "1 of 1 tensors differ, most by 5.0e-01 (a)"),
        ({"b": torch.tensor([0.0, 1.0])}, {}, "2 of 1 tensors differ, most by 0.0e+00 (none)"),
        (None, {"loss": 2.5}, "other metrics"),
    ],
)
def test_a_bit_a_name_or_a_metric_makes_a_difference(tensors: Any, last: dict[str, Any], seen: str, tmp_path: Path) -> None:
    row = same_bits_row(write_run(tmp_path / "a"), write_run(tmp_path / "b", tensors, **last), "twice")
    assert (row.status, row.seen) == (FAIL, seen)


@pytest.mark.parametrize("last", [{"loss": float("nan")}, {"grad_norm": float("inf")}, {"step": 7}])
def test_a_run_that_is_not_finite_or_not_whole_fails(last: dict[str, Any], tmp_path: Path) -> None:
    assert finite_row(write_run(tmp_path / "a"), "run").status == OK
    assert finite_row(write_run(tmp_path / "b", **last), "run").status == FAIL
