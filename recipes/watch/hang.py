"""Finds the stragglers of a hang from the reports of the watchers and the stacks of the ranks, and describes them in one line.

Standard library only. watcher.py collects reports and stacks, and acts on the result.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from recipes.watch.endings import GOOD_CODES

Report = dict[str, Any]
NUM_FRAMES = 8
NUM_NAMED = 3
"""The line names at most this many stragglers and counts the others."""
STATES = {"T": "stopped", "t": "held by a debugger", "D": "in disk sleep", "Z": "dead, not yet gone"}
"""Letters of /proc/PID/stat for a process that cannot continue by itself."""
COLLECTIVES = re.compile(r"torch/distributed/|deepspeed/comm/|partition_parameters\.py:\d+ wait")
_HEADER = re.compile(r"^(Current thread|Thread) 0x([0-9a-f]+)", re.M)
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.M)


@dataclass(frozen=True)
class Straggler:
    """A rank that holds the others up, and why. Step, phase and time are None if there is no report of the rank."""

    rank: int
    host: str
    why: str
    step: int | None = None
    phase: str | None = None
    time: float | None = None
    frames: list[str] = field(default_factory=list)
    """Stack frames of its main thread, innermost first."""


@dataclass(frozen=True)
class HangReport:
    """The stragglers of a hang. `behind` is empty if all ranks are in the same place."""

    seconds: float
    num_ranks: int
    behind: list[Straggler]
    reporting_rank: str
    """The rank that reports the hang, with its host. hang.json calls it `speaker`."""
    place: str
    """The step and phase of the reporting rank."""

    def line(self, stacks: str) -> str:
        """Return the report as one line for the terminal: duration, stragglers, and `stacks` (where the stack traces are, or why there are
        none)."""
        where = f"{self.reporting_rank} is stuck ({self.place})"
        if self.num_ranks > 1:
            where = f"all {self.num_ranks} ranks are stuck in the same place ({self.place})"
        if len(self.behind) == 1:
            where = f"rank {self.behind[0].rank} on {self.behind[0].host} is behind ({_reason(self.behind[0])})"
        elif self.behind:
            named = ", ".join(f"rank {one.rank} on {one.host} ({_reason(one)})" for one in self.behind[:NUM_NAMED])
            more = len(self.behind) - NUM_NAMED
            where = f"{named}{f' and {more} more' if more > 0 else ''} are behind"
        return f"hang: no progress for {self.seconds:.0f} s; {where}; {stacks}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as they are written to hang.json."""
        return {"speaker" if key == "reporting_rank" else key: value for key, value in asdict(self).items()}


def build_hang_report(own: Report, reports: Mapping[int, Report], stacks: Mapping[int, str], hosts: Sequence[str]) -> HangReport:
    """Find the ranks that hold the others up in a hang, and return the report on them.

    `own`: the report of the rank that reports the hang. `reports`: all reports by rank, including `own`. `stacks`: the dumped stack traces
    by rank, for the reports that have no frames. `hosts`: the host of every rank that could have reported.
    """
    hanging = {rank: report for rank, report in reports.items() if report["ended"] == "hang"}
    frames = {rank: r.get("frames") or main_frames(stacks.get(rank, ""), r.get("main_thread", 0)) for rank, r in hanging.items()}
    behind = _absent(reports, hosts)
    if not behind:
        reasons = _stopped(hanging) or _furthest_behind(hanging, reports) or _outside_collectives(frames)
        behind = [_straggler(hanging[rank], why, frames[rank]) for rank, why in sorted(reasons.items())]
    reporting_rank = f"rank {own['rank']} on {own['host']}"
    return HangReport(own["silent_seconds"], len(hosts), behind, reporting_rank, f"step {own['step']}, {own['phase']}")


def main_frames(stack: str, main_thread: int) -> list[str]:
    """Return the stack frames of the thread `main_thread` in a dump of faulthandler, innermost first, at most NUM_FRAMES.

    If that thread is not in the dump, return the frames of the thread that received the signal. [] if the dump has no thread.
    """
    headers = list(_HEADER.finditer(stack))
    if not headers:
        return []
    by_current = next((header for header in headers if header[1] == "Current thread"), headers[-1])
    chosen = next((header for header in headers if int(header[2], 16) == main_thread), by_current)
    end = next((header.start() for header in headers if header.start() > chosen.start()), len(stack))
    found = _FRAME.findall(stack[chosen.start() : end])
    return [f"{'/'.join(path.split('/')[-3:])}:{line} {name}" for path, line, name in found[:NUM_FRAMES]]


def is_complete_dump(stacks: str, main_thread: int) -> bool:
    """True if a dump is complete: it ends with the outermost or the hundredth frame of the main thread, which is dumped last."""
    _, _, last = stacks.rpartition(f"0x{main_thread:016x}")
    return last != stacks and last.endswith((" in <module>\n", "\n  ...\n"))


def _absent(reports: Mapping[int, Report], hosts: Sequence[str]) -> list[Straggler]:
    """Return the ranks that died, ended with an error, or sent no report, with the reason. They cannot enter any collective."""
    found = []
    for rank, host in enumerate(hosts):
        report = reports.get(rank)
        if report is None:
            found.append(Straggler(rank, host, "no answer: its node is frozen or gone, or its watcher is"))
        elif report["ended"] == "silent":
            found.append(_straggler(report, "has died without an exit code", []))
        elif report["ended"] != "hang" and report["ended"]["code"] not in GOOD_CODES:
            found.append(_straggler(report, f"has ended with exit code {report['ended']['code']}", []))
    return found


def _stopped(hanging: Mapping[int, Report]) -> dict[int, str]:
    return {rank: STATES[report["state"]] for rank, report in hanging.items() if report["state"] in STATES}


def _furthest_behind(hanging: Mapping[int, Report], reports: Mapping[int, Report]) -> dict[int, str]:
    """Return the hanging ranks that are furthest behind: rank -> the reason; {} if all ranks are in the same place.

    `hanging`: the reports of the hanging ranks. `reports`: those of all ranks. The rank with the smallest heartbeat number is furthest
    behind, because all ranks give the same heartbeats in the same order. A rank that has ended is ahead of all hanging ones.
    """
    least, ahead = (choose(hanging.values(), key=lambda report: report["beat"]) for choose in (min, max))
    has_ended = len(reports) > len(hanging)
    why = "others have ended" if has_ended else f"others are at step {ahead['step']}, {ahead['phase']}"
    is_behind = has_ended or least["beat"] < ahead["beat"]
    return {rank: why for rank, report in hanging.items() if is_behind and report["beat"] == least["beat"]}


def _outside_collectives(frames: Mapping[int, Iterable[str]]) -> dict[int, str]:
    inside = {rank for rank, own in frames.items() if any(COLLECTIVES.search(frame) for frame in own)}
    return {rank: "not in a collective, as others are" for rank in frames if inside and rank not in inside}


def _straggler(report: Report, why: str, frames: list[str]) -> Straggler:
    return Straggler(report["rank"], report["host"], why, report["step"], report["phase"], report["time"], frames)


def _reason(straggler: Straggler) -> str:
    return f"{straggler.why}, step {straggler.step}, {straggler.phase}" if straggler.phase else straggler.why
