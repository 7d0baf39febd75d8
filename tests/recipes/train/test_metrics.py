"""metrics.jsonl and the terminal say what was measured."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.objectives.data2vec import Data2Vec
from recipes.plan.size import step_flops
from recipes.system.json_lines import JsonLines
from recipes.train import metrics as metrics_module
from recipes.train.metrics import Interval, MetricsWriter, device_peak_flops, format_seconds
from tests.launching import tiny_recipe

CPU = torch.device("cpu")
STEP = {"loss": 0.1 + 0.2, "target_std": 0.9, "world_size": 1}
HELD_OUT = {"eval_loss": 1.5, "explained_variance": 0.25, "target_rank": 12.0}


def writer_of(folder: Path, first_step: int = 0, **changes: object) -> MetricsWriter:
    """Into metrics.jsonl of a folder, shown as data2vec's metrics are."""
    lines, recipe = JsonLines(folder / "metrics.jsonl"), tiny_recipe(**changes)
    return MetricsWriter(lines, recipe, Data2Vec.display, mirror=None, device=CPU, first_step=first_step)


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


def test_a_log_file_gets_a_line_a_step(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    written(tmp_path, {"step": 4, **STEP}, {"step": 8, **STEP, **HELD_OUT})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step    4/1000  loss 0.3000  target_std 0.900  300 tokens/s  ETA 8 min 18 s"
    assert "| eval_loss 1.5000  explained 0.250  rank 12.0  ETA" in lines[1]
    assert len(lines) == 2


def test_the_bar_begins_where_a_resumed_run_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    tqdm = metrics_module.tqdm

    def noted(**options: Any) -> Any:
        made.append(options)
        return tqdm(**options)

    monkeypatch.setattr(metrics_module, "tqdm", noted)
    writer_of(tmp_path, first_step=40, run__max_steps=1000).close()
    assert (made[0]["initial"], made[0]["total"]) == (40, 1000)


@pytest.mark.parametrize(("seconds", "text"), [(0.9, "0 s"), (59, "59 s"), (60, "1 min 00 s"), (200, "3 min 20 s"), (3720, "1 h 02 min")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
