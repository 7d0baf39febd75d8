"""run.profile_steps writes a trace of these updates for Perfetto, and changes no number."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.errors import ConfigError
from recipes.train.profile import StepProfiler
from tests.launching import PRETRAIN_TEXT, launch, overrides, read_jsonl

TIMINGS = {"step_seconds", "data_wait_seconds", "tokens_per_second", "mfu", "peak_memory_bytes"}


def continued(run: Path, run_dir: Path, data: Path, **changes: object) -> str:
    """Continue a copy of `run`, which has done two updates, to update 4. Return what it printed."""
    shutil.copytree(run, run_dir)
    done = launch(PRETRAIN_TEXT, ["--run-dir", run_dir, "--data", data, *overrides(run__max_steps=4, **changes)], run_dir.parent)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def events_of(path: Path) -> list[dict[str, Any]]:
    """Return the events of a trace in the format that Perfetto reads: a JSON object with the list traceEvents."""
    with gzip.open(path, "rt") as file:
        return json.load(file)["traceEvents"]


def numbers(run_dir: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMINGS} for row in read_jsonl(run_dir / "metrics.jsonl")]


def test_the_asked_updates_that_lie_ahead_are_written_for_perfetto_and_the_numbers_stay(
    tmp_path: Path, tiny_run: Path, tiny_text: Path
) -> None:
    plain, profiled = tmp_path / "plain", tmp_path / "profiled"
    continued(tiny_run, plain, tiny_text)
    printed = continued(tiny_run, profiled, tiny_text, run__profile_steps="1-3")
    (path,) = (profiled / "profile").iterdir()
    assert path.name == "rank_0_steps_3-3.json.gz" and f"{path}, for https://ui.perfetto.dev" in printed
    whole = [event for event in events_of(path) if event["ph"] == "X"]
    assert all(event.keys() >= {"name", "ts", "dur", "pid", "tid"} for event in whole)
    names = {event["name"] for event in whole}
    assert {"update 3", "aten::mm"} <= names and not {"update 2", "update 4"} & names
    assert numbers(profiled) == numbers(plain)


def test_an_update_that_ends_with_an_error_is_written_when_the_run_closes(tmp_path: Path) -> None:
    profiler = StepProfiler(range(1, 4), tmp_path, rank=1)
    with pytest.raises(ConfigError), profiler.around(1):
        torch.ones(2, 2).sum()
        raise ConfigError("bad data")
    profiler.close()
    profiler.close()
    assert "aten::sum" in {event.get("name") for event in events_of(tmp_path / "profile" / "rank_1_steps_1-1.json.gz")}


def test_a_place_that_cannot_be_written_is_a_line_and_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "profile").write_text("a file, not a folder")
    with StepProfiler(range(1, 2), tmp_path).around(1):
        torch.ones(2).sum()
    assert "the profile of updates 1 to 1 on rank 0 was not written" in capsys.readouterr().out
