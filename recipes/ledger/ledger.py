"""The ledger of a run: the parts of its wall time, from events.jsonl and metrics.jsonl alone. Torch-free and read-only; it works while
the run is going on. save_interval.py computes the checkpoint interval from the measured cost."""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from recipes.errors import ConfigError
from recipes.ledger.launches import EVENT, METRICS, Launch, Row, divide, read_log, stall_seconds
from recipes.ledger.save_interval import advise
from recipes.values import path_argument

PARTS = {
    "training": "productive: updates that stay",
    "data_wait": "within updates that stay",
    "start": "preparing data, building, loading",
    "saving": "copies and waits; writing continues during training",
    "skipped": "updates that changed nothing",
    "lost": "work that a restart did again",
    "down": "from one launch to the next, its imports included",
    "other": "evaluation and what no row covers",
}
"""The parts of the wall time, in the order of the table. Every second is in exactly one part."""
TOLERATED_SECONDS = 1.0
"""Times that contradict each other by less are not reported: modification times and clocks of hosts are not exact."""
SHOWN_LAUNCHES = 10


def build_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of the flags of launch/ledger.py."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("run_dir", type=path_argument, help="the run dir, finished or not")
    parser.add_argument("--mtbf-hours", type=float, default=24.0, help="mean time between failures of the whole job (default: 24)")
    parser.add_argument("--json", action="store_true", help="print one JSON object with everything")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return parser


def run_ledger(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Print with `say` how a run spent its wall time: a table, or one JSON object with --json. Returns the exit code 0.

    Raises: ConfigError if the run dir has no launch, a line of its logs is damaged, or --mtbf-hours is not a positive number.
    """
    ledger = build_ledger(args.run_dir, args.mtbf_hours)
    for line in [json.dumps(ledger)] if args.json else table(ledger):
        say(line)
    return 0


def build_ledger(run_dir: Path, mtbf_hours: float) -> dict[str, Any]:
    """Return how a run spent its wall time, with its launches, saves, skipped updates and the advised save interval.

    `mtbf_hours`: mean time between failures, for the advice. Raises: ConfigError if `run_dir` has no launch, a line of its logs is
    damaged, or `mtbf_hours` is not a positive number.
    """
    if not run_dir.is_dir():
        raise ConfigError(f"{run_dir}: no such folder; name a run dir such as runs/text_tiny")
    path = run_dir / "events.jsonl"
    if not path.exists():
        raise ConfigError(f"{run_dir}: no events.jsonl in it, so no launch has begun there; name a run dir such as runs/text_tiny")
    events, rows = read_log(path, EVENT), read_log(run_dir / "metrics.jsonl", METRICS)
    newest = max(p.stat().st_mtime for p in (path, run_dir / "metrics.jsonl") if p.exists())
    launches, contradiction = divide(events, rows, newest)
    if not launches:
        raise ConfigError(f"{path}: no launch has started yet ({len(events)} events); look again when the first step is done")
    parts = wall_parts(launches)
    wall = sum(parts.values())
    saves = [event for event in events if event["event"] == "save"]
    return {
        "run_dir": str(run_dir),
        "step": launches[-1].kept_step,
        "wall_seconds": wall,
        "parts": {name: {"seconds": seconds, "percent": 100 * seconds / wall if wall else 0.0} for name, seconds in parts.items()},
        "contradiction_seconds": contradiction,
        "launches": [{**asdict(launch), "parts": launch.parts | {"other": launch.rest}} for launch in launches],
        "saves": _saves(saves, events),
        "skips": dict(Counter(event.get("reason", "not finite") for event in events if event["event"] == "skip")),
        "spikes": dict(Counter(event.get("quantity", "unknown") for event in events if event["event"] == "spike")),
        "fallbacks": [event.get("checkpoint") for event in events if event["event"] == "fallback"],
        "advice": advise(
            [stall_seconds(save) for save in saves],
            _numbers(saves, "write_seconds"),
            [row["step_seconds"] for row in rows],
            mtbf_hours=mtbf_hours,
        ),
    }


def wall_parts(launches: list[Launch]) -> dict[str, float]:
    """Return the seconds of each part of the wall time (PARTS) of all launches together."""
    parts = {name: sum(launch.parts.get(name, 0.0) for launch in launches) for name in PARTS}
    parts["other"] = sum(launch.rest for launch in launches)
    parts["down"] = sum(max(0.0, after.begin - before.end) for before, after in pairwise(launches))
    return parts


def _saves(saves: list[Row], events: list[Row]) -> dict[str, Any]:
    medians = {name: _median(_numbers(saves, name)) for name in ("copy_seconds", "wait_seconds", "write_seconds", "bytes")}
    return {"complete": len(saves), "failed": sum(event["event"] == "save_failed" for event in events), "median": medians}


def _median(values: list[float]) -> float | None:
    return median(values) if values else None


def _numbers(rows: list[Row], key: str) -> list[float]:
    return [row[key] for row in rows if row.get(key) is not None]


def table(ledger: dict[str, Any]) -> list[str]:
    """Return the result of build_ledger() as lines of text for the terminal."""
    title = f"{ledger['run_dir']}: step {ledger['step']}, {len(ledger['launches'])} launches, wall time {ledger['wall_seconds']:,.1f} s"
    parts = [
        f"  {name.replace('_', ' '):<9} {part['seconds']:>14,.1f} s {part['percent']:>6.1f} %  {PARTS[name]}".rstrip()
        for name, part in ledger["parts"].items()
    ]
    counts = [
        f"skipped updates: {_counts(ledger['skips'])}",
        f"spikes: {_counts(ledger['spikes'])}",
        "fallbacks: " + ", ".join([str(len(ledger["fallbacks"])), *map(str, ledger["fallbacks"])]),
    ]
    lines = [title, *parts, *_launch_lines(ledger["launches"]), _saves_line(ledger["saves"]), *counts, _advice_line(ledger["advice"])]
    contradiction = ledger["contradiction_seconds"]
    if contradiction > TOLERATED_SECONDS:
        lines.append(
            f"times contradict each other by {contradiction:,.1f} s in all, for example because clocks of hosts differ or "
            f"the folder was copied; the parts may be wrong by as much"
        )
    return lines


def _launch_lines(launches: list[Row]) -> list[str]:
    hidden, lines = max(0, len(launches) - SHOWN_LAUNCHES), []
    if hidden:
        ends = Counter(launch["ended"] for launch in launches[:hidden]).most_common()
        lines.append(f"launches 1 to {hidden}: " + ", ".join(f"{ended} {count}" for ended, count in ends))
    for number, launch in enumerate(launches[hidden:], hidden + 1):
        ranks = f"{launch['world_size']} ranks (tensor-parallel {launch['tp_size']})"
        seconds = launch["end"] - launch["begin"]
        lines.append(f"launch {number}: {ranks}, from step {launch['first_step']}, {seconds:,.1f} s, {launch['ended']}")
    return lines


def _saves_line(saves: Row) -> str:
    medians = {name: value for name, value in saves["median"].items() if value is not None}
    size = medians.pop("bytes", None)
    shown = [f"{name.removesuffix('_seconds')} {value:.3g} s" for name, value in medians.items()]
    shown += [] if size is None else [f"{size / 1e6:,.1f} MB"]
    return f"saves: {saves['complete']} complete, {saves['failed']} failed" + (f"; medians: {', '.join(shown)}" if shown else "")


def _counts(counts: dict[str, int]) -> str:
    return f"{sum(counts.values())}" + (f" ({', '.join(f'{name} {count}' for name, count in counts.items())})" if counts else "")


def _advice_line(advice: dict[str, float] | None) -> str:
    if advice is None:
        return "advised checkpoint interval: none, since no save was measured yet"
    return (
        f"advised checkpoint interval: {advice['interval_seconds']:,.1f} s (Daly {advice['daly_seconds']:,.1f} s, Young "
        f"{advice['young_seconds']:,.1f} s, writing takes {advice['write_seconds']:.3g} s) if a save costs "
        f"{advice['cost_seconds']:.3g} s and a failure comes every {advice['mtbf_hours']:g} h: --set run.save_steps={advice['save_steps']}"
    )
