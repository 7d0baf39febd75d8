"""Launches and the parts of their time, from hand-written logs and from a simulated run in which every second is known."""

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from recipes.errors import ConfigError
from recipes.ledger.launches import EVENT, METRICS, Launch, divide, read_log, stall_seconds

STEP, WAIT, SKIP, SETUP, COPY = 2.0, 0.25, 1.5, 7.0, 0.5
"""Seconds of an applied update, of the data wait in it, of a skipped update, of a start, and of the copy of a save."""


class Simulation:
    """Writes the logs that a run would write, and counts the seconds of each part itself."""

    def __init__(self, log_steps: int, save_steps: int) -> None:
        self.log_steps, self.save_steps = log_steps, save_steps
        self.now, self.step, self.saved = 1000.0, 0, 0
        self.events: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.last_seen: float | None = None
        self.truth = dict.fromkeys(("training", "data_wait", "start", "saving", "skipped", "lost"), 0.0)
        self.down, self.other = 0.0, 0.0
        self.pending = {"training": 0.0, "data_wait": 0.0, "skipped": 0.0}
        """Seconds of updates that are not in a checkpoint yet."""

    def event(self, kind: str, **facts: Any) -> None:
        self.events.append({"time": self.now, "event": kind, "step": self.step, **facts})

    def begin(self) -> None:
        cut = [row for row in self.rows if row["step"] > self.saved]
        self.rows = [row for row in self.rows if row["step"] <= self.saved]
        lost = sum(row["seconds"] for row in cut)
        self.truth["lost"] += lost
        self.other += sum(self.pending.values()) - lost
        self.pending = dict.fromkeys(self.pending, 0.0)
        self.step = self.saved
        self.now += SETUP
        self.truth["start"] += SETUP
        self.event("resume" if self.step else "start", setup_seconds=SETUP, lost_seconds=lost, last_seen=self.last_seen)
        self.interval: list[float] = []

    def train(self, updates: int, skipped: set[int]) -> None:
        for number in range(updates):
            is_skipped = number in skipped
            self.now += SKIP if is_skipped else STEP
            self.interval.append(SKIP if is_skipped else STEP)
            if is_skipped:
                self.pending["skipped"] += SKIP
                self.event("skip", update=number, reason="loss", seconds=SKIP)
                continue
            self.step += 1
            self.pending["data_wait"] += WAIT
            self.pending["training"] += STEP - WAIT
            if self.step % self.log_steps == 0:
                self._log()
            if self.step % self.save_steps == 0:
                self.save()

    def _log(self) -> None:
        updates, seconds = len(self.interval), sum(self.interval)
        wait = WAIT * self.interval.count(STEP)
        row = {"step": self.step, "step_seconds": seconds / updates, "data_wait_seconds": wait / updates}
        self.rows.append({**row, "seconds": seconds})
        self.interval = []

    def save(self) -> None:
        self.now += COPY
        self.truth["saving"] += COPY
        self.saved = self.step
        for name, seconds in self.pending.items():
            self.truth[name] += seconds
        self.pending = dict.fromkeys(self.pending, 0.0)
        self.event("save", copy_seconds=COPY, wait_seconds=0.0, write_seconds=3.0, bytes=8)

    def end(self, reason: str | None) -> None:
        if reason:
            self.save()
            self.event("stop", reason=reason)
        self.last_seen = self.now

    def rest(self, seconds: float) -> None:
        self.now += seconds
        self.down += seconds


def totals(launches: list[Launch]) -> dict[str, float]:
    return {name: sum(launch.parts[name] for launch in launches) for name in launches[0].parts}


@pytest.mark.parametrize("log_steps", [1, 3])
@pytest.mark.parametrize("seed", range(20))
def test_every_second_of_a_simulated_run_is_found_in_its_part(seed: int, log_steps: int) -> None:
    """Kills, stops and skipped updates at random. With a row for every update nothing is estimated. Otherwise lost work without a row is
    in the rest, and kept updates without a row are as long as those before them."""
    rng = random.Random(seed)
    run = Simulation(log_steps, save_steps=6)
    num_launches = rng.randint(1, 5)
    for number in range(num_launches):
        run.begin()
        updates = rng.randint(0, 20)
        skips = (
            rng.sample(range(updates), k=min(updates, 2)) if log_steps == 1 else []
        )  # otherwise a row's mean is over applied and skipped updates
        run.train(updates, set(skips))
        run.end("done" if number == num_launches - 1 else rng.choice([None, "SIGTERM"]))
        if number < num_launches - 1:
            run.rest(rng.uniform(0, 10))
    launches, contradiction = divide(run.events, run.rows, run.now)
    found = totals(launches)
    other = sum(launch.rest for launch in launches)
    down = sum(after.begin - before.end for before, after in pairwise(launches))
    if log_steps > 1 and not run.rows:  # the time of an update is unknown
        other -= run.truth["training"] + run.truth["data_wait"]
        found |= {name: run.truth[name] for name in ("training", "data_wait")}
    assert contradiction == pytest.approx(0, abs=1e-6)
    assert {**found, "down": down, "other": other} == pytest.approx({**run.truth, "down": run.down, "other": run.other}, abs=1e-6)
    assert sum(found.values()) + other + down == pytest.approx(run.now - 1000.0)


def start(time: float, step: int = 0, **facts: Any) -> dict[str, Any]:
    return {"time": time, "event": "resume" if step else "start", "step": step, "setup_seconds": 5.0, **facts}


def row(step: int, seconds: float = 1.0) -> dict[str, Any]:
    return {"step": step, "step_seconds": seconds, "data_wait_seconds": 0.0}


def test_a_launch_ends_by_stop_error_hang_or_kill_or_is_open() -> None:
    events = [
        start(105.0),
        {"time": 110.0, "event": "stop", "step": 3, "reason": "SIGTERM"},
        {"time": 118.0, "event": "takeover", "owner": "pid 1"},  # an event of the next launch
        start(125.0, 3),
        {"time": 130.0, "event": "error", "message": "loss is NaN"},
        start(145.0, 3),
        start(165.0, 3, last_seen=150.0),
        {"time": 170.0, "event": "hang", "step": 3, "behind": [{"rank": 3, "host": "node2", "why": "stopped"}]},
        start(185.0, 3),
        {"time": 190.0, "event": "hang", "step": 3, "behind": []},
        start(205.0, 3),
    ]
    launches, contradiction = divide(events, [], newest=210.0)
    assert [launch.ended for launch in launches] == [
        *("SIGTERM", "error: loss is NaN", "killed", "hang: rank 3 on node2", "hang: all in the same place", "running or killed")
    ]
    assert [(launch.begin, launch.end) for launch in launches] == [(first, first + 10.0) for first in range(100, 220, 20)]
    assert contradiction == 0


def test_a_killed_launch_without_last_seen_ends_with_its_last_event() -> None:
    events = [start(105.0), {"time": 109.0, "event": "save", "step": 2}, start(125.0, last_seen=None)]
    assert divide(events, [], newest=130.0)[0][0].end == 109.0


def test_work_lost_to_a_fallback_is_assigned_to_the_launches_that_did_it() -> None:
    """Two launches with 50 s of work each, then a fallback to step 10 of the first. A skip among the lost updates counts as lost."""
    events = [
        start(105.0),
        {"time": 140.0, "event": "skip", "step": 30, "seconds": 1.0},
        {"time": 155.0, "event": "stop", "step": 50, "reason": "SIGTERM"},
        start(165.0, 50),
        {"time": 215.0, "event": "stop", "step": 100, "reason": "SIGTERM"},
        start(225.0, 10, lost_seconds=90.0),
    ]
    launches, contradiction = divide(events, [row(step) for step in range(1, 11)], newest=225.0)
    assert [launch.parts["lost"] for launch in launches] == [40.0, 50.0, 0.0]
    assert [launch.parts["training"] for launch in launches] == [10.0, 0.0, 0.0]
    assert [(launch.kept_step, launch.parts["skipped"]) for launch in launches] == [(10, 0.0)] * 3
    assert [launch.rest for launch in launches] == [0.0, 0.0, 0.0] and contradiction == 0


def test_overlapping_launches_and_more_lost_than_elapsed_seconds_are_contradictions() -> None:
    events = [start(105.0), {"time": 150.0, "event": "stop", "step": 1, "reason": "SIGTERM"}, start(135.0, lost_seconds=52.0)]
    launches, contradiction = divide(events, [], newest=140.0)
    assert contradiction == 20.0 + 7.0
    assert min(launch.rest for launch in launches) == 0.0


def test_a_launch_was_alive_at_least_as_long_as_its_updates_took() -> None:
    launches, contradiction = divide([start(105.0)], [row(10)], newest=107.0)
    assert launches[0].end == 115.0 and launches[0].rest == 0.0 and contradiction == 0


def test_updates_without_a_row_count_for_their_own_launch() -> None:
    """Rows at every tenth step. The second launch does three updates of 1 s, and other work for 7 s."""
    events = [
        start(105.0),
        {"time": 119.0, "event": "stop", "step": 14, "reason": "SIGTERM"},
        start(135.0, 14),
        {"time": 145.0, "event": "stop", "step": 17, "reason": "SIGTERM"},
    ]
    launches, _ = divide(events, [row(10)], newest=145.0)
    assert [(launch.parts["training"], launch.rest) for launch in launches] == [(14.0, 0.0), (3.0, 7.0)]


def test_skips_in_lost_work_are_not_counted_twice() -> None:
    skip = {"time": 120.0, "event": "skip", "step": 7, "seconds": 1.0}
    events = [start(105.0), skip, start(135.0, 5, lost_seconds=6.0, last_seen=125.0)]
    parts = divide(events, [row(step) for step in range(1, 6)], newest=135.0)[0][0].parts
    assert (parts["training"], parts["skipped"], parts["lost"]) == (5.0, 0.0, 6.0)


def test_a_save_costs_the_seconds_for_which_training_stood_still() -> None:
    assert stall_seconds({"copy_seconds": 1.0, "wait_seconds": 2.0, "write_seconds": 40.0}) == 3.0
    assert stall_seconds({"seconds": 9.0}) == 0.0  # a save event of an older version


def test_an_incomplete_last_line_is_ignored_and_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_log(path, METRICS) == []
    path.write_text(json.dumps(row(1)) + "\n" + '{"step": 2, "step_sec')
    assert read_log(path, METRICS) == [row(1)]


@pytest.mark.parametrize("line", ['{"time": 1.0, "eve', "[1]", '{"event": "save"}', '{"time": "now", "event": "save"}', "", "\x00\x00"])
def test_a_damaged_line_is_named_by_its_number(line: str, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(['{"time": 1.0, "event": "start"}', line, '{"time": 2.0, "event": "stop"}', ""]))
    with pytest.raises(ConfigError, match=r"events\.jsonl: line 2 is damaged .* is no object with time, event\); fix or delete it"):
        read_log(path, EVENT)
