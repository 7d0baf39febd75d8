"""Metrics in metrics.jsonl: rates, MFU, full precision."""

import json
from pathlib import Path

import pytest
import torch

from recipes.objectives.data2vec import Data2Vec
from recipes.plan.flops import step_flops
from recipes.system.json_lines import JsonLines
from recipes.train import metrics as metrics_module
from recipes.train.metrics import Interval, MetricsWriter, device_peak_flops, unknown_peak_line
from tests.launching import tiny_recipe

CPU = torch.device("cpu")
STEP = {"loss": 0.1 + 0.2, "target_std": 0.9, "world_size": 1}


def writer_of(folder: Path, first_step: int = 0, **changes: object) -> MetricsWriter:
    """Return a writer to metrics.jsonl in `folder`, with the display of data2vec."""
    lines, recipe = JsonLines(folder / "metrics.jsonl"), tiny_recipe(**changes)
    return MetricsWriter(lines, recipe, Data2Vec.display, mirror=None, device=CPU, first_step=first_step)


def written(tmp_path: Path, *rows: dict, interval: Interval | None = None) -> list[dict]:
    path = tmp_path / "metrics.jsonl"
    writer = writer_of(tmp_path, run__max_steps=1000)
    for row in rows:
        writer.write(dict(row), interval or Interval(steps=4, seconds=2.0, tokens=600))
        assert path.read_text().endswith("}\n"), "every line is in the file as soon as it is written"
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


def test_an_unknown_device_has_mfu_null_and_a_line_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA B300")
    line = unknown_peak_line(tiny_recipe().run, gpu)
    assert line and line.startswith("mfu is null: no peak is known for NVIDIA B300; --set run.device_tflops=N")
    assert unknown_peak_line(tiny_recipe().run, CPU) is None, "no line in each run on a CPU"
    assert unknown_peak_line(tiny_recipe(run__device_tflops=2250).run, gpu) is None
    writer = writer_of(tmp_path, run__device_tflops=0.001)
    writer.write({"step": 1, **STEP}, Interval(steps=1, seconds=2.0, tokens=600))
    writer.close()
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["mfu"] == pytest.approx(step_flops(tiny_recipe(), 600, 8) / 2.0 / 1e9)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", None),
        ("NVIDIA L40S", 362e12),
        ("AMD Instinct MI300X", 1307.4e12),
        ("Tesla K80", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_the_peak_is_known_or_null(monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert device_peak_flops(torch.device("cuda")) == peak
    assert device_peak_flops(CPU) is None
