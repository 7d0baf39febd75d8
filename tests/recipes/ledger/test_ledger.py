"""The ledger of a hand-written run dir: numbers, table, JSON, and refused input."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from recipes.errors import ConfigError
from recipes.ledger.ledger import PARTS, SHOWN_LAUNCHES, build_ledger, build_parser, run_ledger, table
from recipes.ledger.save_interval import daly_interval

FLAGS = {"--help", "--mtbf-hours", "--json", "--local_rank"}
SAVE = {"copy_seconds": 0.5, "wait_seconds": 0.0, "write_seconds": 3.0, "bytes": 2_000_000}
EVENTS: list[dict[str, Any]] = [
    {"time": 1010.0, "event": "start", "step": 0, "setup_seconds": 10.0, "world_size": 4, "tp_size": 2, "last_seen": None},
    {"time": 1012.0, "event": "skip", "step": 1, "update": 1, "reason": "loss", "seconds": 2.0},
    {"time": 1017.0, "event": "spike", "step": 2, "update": 3, "quantity": "grad_norm", "action": "report"},
    {"time": 1020.0, "event": "save", "step": 4, **SAVE},
    {"time": 1022.0, "event": "save_failed", "step": 6, "reason": "No space left on device", "retry_step": 7},
    {"time": 1050.0, "event": "fallback", "step": 5, "checkpoint": "step_00000005", "reason": "damaged"},
    {"time": 1060.0, "event": "resume", "step": 4, "setup_seconds": 12.0, "world_size": 2, "tp_size": 1, "last_seen": 1028.0}
    | {"lost_seconds": 4.0, "lost_steps": 2},
    {"time": 1065.0, "event": "save", "step": 6, **SAVE | {"copy_seconds": 1.5}},
    {"time": 1068.0, "event": "stop", "step": 6, "reason": "done"},
]
"""Launch 1 from 1000 to 1028, launch 2 from 1048 to 1068."""


def row(step: int) -> dict[str, Any]:
    return {"step": step, "step_seconds": 2.0, "data_wait_seconds": 0.5}


def write_run(folder: Path, events: list[dict[str, Any]], rows: list[dict[str, Any]]) -> Path:
    for name, lines in (("events", events), ("metrics", rows)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path, EVENTS, [row(step) for step in range(1, 7)])


def test_the_flags_are_frozen() -> None:
    assert {flag for action in build_parser("")._actions for flag in action.option_strings if flag.startswith("--")} == FLAGS


def test_parts_agree_with_the_logs_and_sum_to_the_wall_time(run_dir: Path) -> None:
    ledger = build_ledger(run_dir, 24.0)
    seconds = {name: part["seconds"] for name, part in ledger["parts"].items()}
    # Five updates in launch 1's kept rows (four applied, one skipped), two in launch 2's; a quarter of each is data wait.
    assert seconds == {
        **{"training": 8.0 - 2.5 + 3.0, "data_wait": 2.5 + 1.0, "start": 22.0, "saving": 2.0, "skipped": 2.0},
        **{"lost": 4.0, "down": 20.0, "other": 68.0 - 62.0},
    }
    assert ledger["wall_seconds"] == sum(seconds.values()) == 68.0
    assert sum(part["percent"] for part in ledger["parts"].values()) == pytest.approx(100)
    assert list(ledger["parts"]) == list(PARTS)
    assert [sum(launch["parts"].values()) for launch in ledger["launches"]] == [28.0, 20.0]


def test_counts_medians_and_ends(run_dir: Path) -> None:
    ledger = build_ledger(run_dir, 24.0)
    ends = [(launch["ended"], launch["world_size"], launch["tp_size"]) for launch in ledger["launches"]]
    assert ends == [("killed", 4, 2), ("done", 2, 1)]
    assert ledger["saves"] == {"complete": 2, "failed": 1, "median": {**SAVE, "copy_seconds": 1.0}}
    assert (ledger["skips"], ledger["spikes"], ledger["fallbacks"]) == ({"loss": 1}, {"grad_norm": 1}, ["step_00000005"])
    assert ledger["step"] == 6


def test_advice_is_from_the_measured_cost_and_the_given_mtbf(run_dir: Path) -> None:
    for hours in (24.0, 0.5):
        advice = build_ledger(run_dir, hours)["advice"]
        assert advice["interval_seconds"] == daly_interval(1.0, 3600 * hours)
        assert advice["save_steps"] * 2.0 == pytest.approx(advice["interval_seconds"], abs=2.0)
        assert f"--set run.save_steps={advice['save_steps']}" in table(build_ledger(run_dir, hours))[-1]


def test_advice_is_from_stalls_writes_and_updates_of_this_run(tmp_path: Path) -> None:
    saves = [
        {"copy_seconds": 1.0, "wait_seconds": 4.0, "write_seconds": 30.0},
        {"copy_seconds": 3.0, "wait_seconds": 8.0, "write_seconds": 50.0},
    ]
    events = [EVENTS[0], *({"time": 1020.0, "event": "save", "step": 1, **save} for save in saves)]
    advice = build_ledger(write_run(tmp_path, events, [row(1), row(2) | {"step_seconds": 4.0}]), 5.0)["advice"]
    measured = [advice[name] for name in ("cost_seconds", "write_seconds", "step_seconds", "mtbf_hours")]
    assert measured == [8.0, 40.0, 3.0, 5.0]


def test_the_table_has_every_part_and_launch(run_dir: Path) -> None:
    text = "\n".join(table(build_ledger(run_dir, 24.0)))
    assert f"{run_dir}: step 6, 2 launches, wall time 68.0 s\n  training             8.5 s   12.5 %  productive" in text
    assert re.search(r"^  lost +4\.0 s +5\.9 %  work that a restart did again$", text, re.M)
    assert "\nlaunch 1: 4 ranks (tensor-parallel 2), from step 0, 28.0 s, killed\n" in text
    assert "\nlaunch 2: 2 ranks (tensor-parallel 1), from step 4, 20.0 s, done\n" in text
    assert "\nsaves: 2 complete, 1 failed; medians: copy 1 s, wait 0 s, write 3 s, 2.0 MB\n" in text
    assert "\nskipped updates: 1 (loss 1)\nspikes: 1 (grad_norm 1)\nfallbacks: 1, step_00000005\n" in text
    assert "contradict" not in text


def test_json_is_the_same_ledger_on_one_line(run_dir: Path) -> None:
    lines: list[str] = []
    assert run_ledger(build_parser("").parse_args([str(run_dir), "--json", "--mtbf-hours", "3", "--local_rank=0"]), lines.append) == 0
    assert len(lines) == 1 and json.loads(lines[0]) == build_ledger(run_dir, 3.0)


def test_many_launches_are_summarized(tmp_path: Path) -> None:
    events = [{"time": 100.0 * n, "event": "start", "step": 0, "setup_seconds": 1.0, "last_seen": 100.0 * n - 50} for n in range(1, 16)]
    lines = table(build_ledger(write_run(tmp_path, events, []), 24.0))
    assert f"launches 1 to {15 - SHOWN_LAUNCHES}: killed 5" in lines
    shown = [int(line.split()[1].rstrip(":")) for line in lines if line.startswith("launch ")]
    assert shown == list(range(16 - SHOWN_LAUNCHES, 16))
    assert lines[-1] == "advised checkpoint interval: none, since no save was measured yet"


def test_a_running_run_ends_at_the_newest_modification_time_of_its_logs(run_dir: Path) -> None:
    events = run_dir / "events.jsonl"
    events.write_text("".join(json.dumps(event) + "\n" for event in EVENTS[:3]) + '{"time": 10')
    os.utime(events, (0, 0))
    for name, seconds in (("metrics", 300.0), ("events", 400.0)):
        os.utime(run_dir / f"{name}.jsonl", (1000.0 + seconds,) * 2)
        ledger = build_ledger(run_dir, 24.0)
        assert ([launch["ended"] for launch in ledger["launches"]], ledger["wall_seconds"]) == (["running or killed"], seconds)


def test_contradicting_clocks_are_reported_and_no_part_is_negative(run_dir: Path) -> None:
    late = [{**event, "time": event["time"] - 30.0} if number > 5 else event for number, event in enumerate(EVENTS)]
    ledger = build_ledger(write_run(run_dir, late, [row(step) for step in range(1, 7)]), 24.0)
    assert ledger["contradiction_seconds"] == 10.0
    assert min(part["seconds"] for part in ledger["parts"].values()) >= 0
    assert table(ledger)[-1].startswith("times contradict each other by 10.0 s in all")


def test_a_run_of_an_older_version_is_read(tmp_path: Path) -> None:
    events = [{"time": 5.0, "event": "start", "step": 0}, {"time": 8.0, "event": "save", "step": 1, "seconds": 1.0}]
    ledger = build_ledger(write_run(tmp_path, [*events, {"time": 9.0, "event": "stop", "step": 1, "reason": "done"}], []), 24.0)
    assert (ledger["wall_seconds"], ledger["parts"]["other"]["seconds"]) == (4.0, 4.0)


def test_bad_run_dirs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: no such folder; name a run dir such as runs/text_tiny"):
        build_ledger(tmp_path / "nowhere", 24.0)
    with pytest.raises(ConfigError, match=r"no events\.jsonl in it, so no launch has begun there"):
        build_ledger(tmp_path, 24.0)
    write_run(tmp_path, [{"time": 1.0, "event": "takeover", "owner": "pid 1"}], [])
    with pytest.raises(ConfigError, match=r"no launch has started yet \(1 events\)"):
        build_ledger(tmp_path, 24.0)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "step_seconds": 2.0}\n{"step": 2}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: line 2 is damaged"):
        build_ledger(tmp_path, 24.0)
