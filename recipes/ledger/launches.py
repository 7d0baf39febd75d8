"""Splits a run into launches (starts of the training command), and the time of each launch into parts, from events.jsonl and
metrics.jsonl. Torch-free."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from recipes.errors import ConfigError
from recipes.system.json_lines import read_lines

BEGINS, ENDS = ("start", "resume"), ("stop", "error", "hang")
OPEN_END = "running or killed"
EVENT, METRICS = {"time": int | float, "event": str}, {"step": int, "step_seconds": int | float}
"""The keys and types that this module needs in every line of events.jsonl and metrics.jsonl."""

Row = dict[str, Any]


@dataclass
class Launch:
    """One start of the training command: when it began and was last alive (unix seconds), how it ended, and the seconds of each part of
    its time."""

    begin: float
    end: float
    first_step: int
    kept_step: int
    """Updates of this launch after this step were lost."""
    world_size: int
    tp_size: int
    ended: str
    parts: dict[str, float]

    @property
    def rest(self) -> float:
        """Seconds of the launch that no part counts: evaluation is one such activity. At least 0."""
        return max(0.0, self.end - self.begin - sum(self.parts.values()))


def read_log(path: Path, required: dict[str, Any]) -> list[Row]:
    """Return the object of every line; [] if there is no file. An incomplete last line is ignored: a kill left it, or it is being written.

    Raises: ConfigError naming the first line that is not an object with the `required` keys and types.
    """
    return [_row(path, number, line, row, required=required) for number, (line, row) in enumerate(read_lines(path), 1)]


def _row(path: Path, number: int, line: str, row: Row | None, *, required: dict[str, Any]) -> Row:
    if row is None or not all(isinstance(row.get(key), kind) for key, kind in required.items()):
        raise ConfigError(f"{path}: line {number} is damaged ({line[:40]!r} is no object with {', '.join(required)}); fix or delete it")
    return row


def divide(events: list[Row], rows: list[Row], newest: float) -> tuple[list[Launch], float]:
    """Split a run into its launches. Return them, oldest first, and the number of seconds by which their times contradict each other:
    launches overlap, or more work was lost than there was time for.

    `events`, `rows`: the lines of events.jsonl and of metrics.jsonl. `newest`: unix time at which the last launch was last alive.
    """
    begins = [index for index, event in enumerate(events) if event["event"] in BEGINS]
    groups = [events[first:stop] for first, stop in pairwise([*begins, len(events)])]
    starts = [group[0] for group in groups]
    launches = [_launch(own, starts[number + 1 :], rows, newest) for number, own in enumerate(groups)]
    contradiction = sum(max(0.0, before.end - after.begin) for before, after in pairwise(launches))
    for number, start in enumerate(starts):
        contradiction += _assign_lost_seconds(launches[:number], _number(start, "lost_seconds"))
    for launch in launches:  # last, because it is an estimate
        _add_unlogged(launch, rows)
    return launches, contradiction


def _assign_lost_seconds(launches: list[Launch], lost: float) -> float:
    """Add `lost`, the seconds of work that had to be repeated, to the parts of `launches`. Return the seconds that fit into none of them.

    The newest launch gets as much as its unassigned time holds, then the one before it gets what is left, and so on.
    """
    for launch in reversed(launches):
        share = min(lost, launch.rest)
        launch.parts["lost"] += share
        lost -= share
    return lost


def _launch(own: list[Row], later: list[Row], rows: list[Row], newest: float) -> Launch:
    """Build one launch. `own`: its events. `later`: the start events of all later launches. `rows`: all rows of metrics.jsonl.

    `newest`: unix time at which the run was last alive. It is the end of the last launch if that has no event of its end.
    """
    start, first_step = own[0], _step(own[0])
    kept = min(map(_step, later)) if later else max([row["step"] for row in rows] + [_step(event) for event in own])
    ending = next((event for event in own if event["event"] in ENDS), None)
    is_whole = not later or (ending is not None and _step(ending) == kept)  # none of its work was lost
    skips = [event for event in own if event["event"] == "skip" and _step(event) < kept + is_whole]  # the other skips count as lost
    parts = {
        "start": _number(start, "setup_seconds"),
        "saving": sum(stall_seconds(event) for event in own if event["event"] == "save"),
        **_updates([row for row in rows if first_step < row["step"] <= kept], skips, first_step),
        "lost": 0.0,
    }
    begin = start["time"] - parts["start"]
    if ending:
        seen = ending["time"]
    elif later:
        seen = later[0].get("last_seen") or own[-1]["time"]
    else:
        seen = max(newest, own[-1]["time"])
    return Launch(
        begin=begin,
        end=max(seen, begin + sum(parts.values())),  # it was alive at least as long as its parts took
        first_step=first_step,
        kept_step=kept,
        world_size=start.get("world_size", 1),
        tp_size=start.get("tp_size", 1),
        ended=_ended(ending, bool(later)),
        parts=parts,
    )


def _updates(logged: list[Row], skips: list[Row], first_step: int) -> dict[str, float]:
    """Return the seconds of three parts of a launch: `training`, `data_wait` (waiting for data) and `skipped` (updates not applied).

    `logged`: the launch's rows of metrics.jsonl. Their times are means over all updates since the previous row, skipped ones included.
    `skips`: the launch's skip events. `first_step`: the step at which the launch began.
    """
    parts = {"training": 0.0, "data_wait": 0.0, "skipped": sum(_number(skip, "seconds") for skip in skips)}
    for before, row in pairwise([{"step": first_step}, *logged]):
        inside = [skip for skip in skips if before["step"] <= _step(skip) < row["step"]]
        updates = row["step"] - before["step"] + len(inside)
        applied = max(0.0, updates * row["step_seconds"] - sum(_number(skip, "seconds") for skip in inside))
        waited = min(applied, updates * _number(row, "data_wait_seconds"))
        parts["data_wait"] += waited
        parts["training"] += applied - waited
    return parts


def _add_unlogged(launch: Launch, rows: list[Row]) -> None:
    """Add to `launch` the estimated seconds of its last updates, if the launch ended before metrics.jsonl got a row about them.

    Only updates whose result was kept are added. `rows`: all rows of metrics.jsonl. Each update is assumed to take as long as in the
    newest row up to these updates, or as in the first row if there is none.
    """
    if not rows:
        return
    last = max((row["step"] for row in rows if row["step"] <= launch.kept_step), default=0)
    pattern = next(row for row in rows if row["step"] >= last)
    updates = max(0, launch.kept_step - max(last, launch.first_step))
    seconds = min(launch.rest, updates * pattern["step_seconds"])
    waited = min(seconds, updates * _number(pattern, "data_wait_seconds"))
    launch.parts["data_wait"] += waited
    launch.parts["training"] += seconds - waited


def _ended(ending: Row | None, has_successor: bool) -> str:
    if ending is None:
        return "killed" if has_successor else OPEN_END
    if ending["event"] == "hang":
        behind = ", ".join(f"rank {one.get('rank')} on {one.get('host')}" for one in ending.get("behind") or [])
        return f"hang: {behind or 'all in the same place'}"
    return f"error: {ending.get('message')}" if ending["event"] == "error" else str(ending.get("reason"))


def stall_seconds(save: Row) -> float:
    """Return the seconds for which training stood still during a save: copying to the host plus waiting for the save to end."""
    return _number(save, "copy_seconds") + _number(save, "wait_seconds")


def _number(row: Row, key: str) -> float:
    return row.get(key) or 0.0  # lines of an older version lack some of the keys


def _step(event: Row) -> int:
    return event.get("step") or 0
