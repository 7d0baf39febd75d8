"""The process beside a rank that sees it hang or end, says so in RUN_DIR/watch, and ends a rank that hangs.

Standard library only, so that it starts in a moment and lives on nothing: where its rank is stopped, holds Python's lock for ever
or sits in a dead collective, and where the file server is dead. Who is named: hang.py. The rank's side: watch.py.
"""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from mmap import PROT_READ, mmap
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from recipes.errors import EXIT_INTERRUPTED, ConfigError
from recipes.system.durable import write_text_atomically
from recipes.system.json_lines import append_whole
from recipes.system.liveness import read_stat
from recipes.system.terminal import protect_terminal
from recipes.watch.endings import FINE, HANG, read_records, record_file, stack_file
from recipes.watch.hang import HangReport, Report, build_hang_report
from recipes.watch.heartbeat import SIZE, Heartbeat, read_heartbeat

Result = TypeVar("Result")
DUMP_SIGNAL = signal.SIGRTMIN + 7
"""Asks a rank for its stacks. NCCL has SIGUSR1, Slurm and the launchers the usual ones."""
NO_FOLDER_CODES = (*FINE, ConfigError.exit_code, EXIT_INTERRUPTED)
"""Exit codes that make no folder where there is none yet: nothing was trained, and the terminal says why."""
STOPPED = "T"
POLL_SECONDS = 1.0
CHECK_OTHERS_SECONDS, CHECK_OTHERS_AFTER_SECONDS = 2.0, 5.0
"""How often the folder is asked whether another rank hangs, and after how much silence of the own one. Never in quick steps."""
LOST_SECONDS = 8.0
"""Stall after which a rank is not waited for if another one has ended badly. gloo tells it at once, NCCL and a store do not."""
GATHER_SECONDS, DUMP_SECONDS, STACKS_SECONDS, HANG_REPORT_SECONDS = 10.0, 3.0, 6.0, 12.0
"""How long is waited for the reports of all ranks, a dump, the stacks of all, and hang.json: together less than 30 s."""
WRITE_SECONDS = 3.0
EXIT_SECONDS = 30.0
"""How long a rank may live on after it has told its end, where it does not wait for a disk."""
FOLDER_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class WatchTarget:
    """Whom a watcher watches, and where it tells. The rank leaves it in the shared memory."""

    folder: str
    rank: int
    hosts: list[str]
    pid: int
    main_thread: int
    hang_seconds: float
    """0: whatever the rank does, it does not hang."""


class SharedFolder:
    """Small files on a disk that may be dead: each piece of work has a bounded time, after which it is left alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._working: Thread | None = None

    def do(self, job: Callable[[Path], Result], seconds: float = WRITE_SECONDS) -> Result | None:
        """The job's result; None where the disk refuses or does not answer, or still has not answered the job before."""
        if self._working is not None and self._working.is_alive():
            return None
        results: list[Result] = []

        def work() -> None:
            with suppress(OSError):
                results.append(job(self.path))

        self._working = Thread(target=work, daemon=True)
        self._working.start()
        self._working.join(seconds)
        return results[0] if results else None


class Stall:
    """For how long a rank has given no sign of life, counted only while this process could see it: after a pause of the whole
    machine or of the job (scontrol suspend, Ctrl-Z) nobody hangs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last: Heartbeat | None = None
        self._last_update = time.monotonic()

    def look(self, beat: Heartbeat) -> None:
        """To be called every POLL_SECONDS or sooner."""
        now = time.monotonic()
        self.seconds = min(self.seconds + min(now - self._last_update, 2 * POLL_SECONDS), now - beat.seconds) if beat == self._last else 0.0
        self._last, self._last_update = beat, now


class Watcher:
    """Watches one rank until that ends."""

    def __init__(self, target: WatchTarget, memory: mmap, pipe: int, stacks: int) -> None:
        """`pipe`: last words come through it, and it closes when the rank ends; `stacks`: the file that the rank dumps into."""
        self._target, self._memory, self._pipe, self._stacks = target, memory, pipe, stacks
        self._folder = SharedFolder(Path(target.folder))
        self._stall, self._next_check = Stall(), 0.0
        self._has_exit_code = False

    def watch(self) -> None:
        """Returns when the rank has ended, or was ended."""
        limit = self._target.hang_seconds
        while True:
            if self._read_pipe(min(POLL_SECONDS, limit / 4 or POLL_SECONDS)):
                if not self._has_exit_code:
                    self._write_record("silent", time.time(), read_heartbeat(self._memory))
                return
            beat = read_heartbeat(self._memory)
            self._stall.look(beat)
            if self._has_exit_code and self._stall.seconds >= EXIT_SECONDS and not beat.is_paused:
                self._kill_leftover()
                return
            if limit and (self._hangs(beat) or self._another_hangs(beat)):
                self._end_hang()
                return

    def _read_pipe(self, seconds: float) -> bool:
        """Wait that long for what the rank says. True where it has ended."""
        ready, _, _ = select.select([self._pipe], [], [], seconds)
        if not ready:
            return os.getppid() != self._target.pid  # a process that it forked may hold the pipe open
        said = os.read(self._pipe, select.PIPE_BUF)
        if said:
            words = json.loads(said)
            self._has_exit_code, self._stall = True, Stall()
            self._write_record({"code": words["code"], "message": words["message"]}, words["time"], Heartbeat(*words["beat"]))
        return not said

    def _hangs(self, beat: Heartbeat) -> bool:
        """A process that is stopped does not wait for a disk, whatever the rank said last."""
        return self._stall.seconds >= self._target.hang_seconds and (not beat.is_paused or process_state(self._target.pid) == STOPPED)

    def _another_hangs(self, beat: Heartbeat) -> bool:
        """A rank that waits without a limit, or has been silent for less than the limit, hangs if another one does; without a pause,
        after LOST_SECONDS, also if another one has ended badly: what it waits for never comes."""
        now = time.monotonic()
        if now < self._next_check or not (
            beat.is_paused or self._stall.seconds >= min(CHECK_OTHERS_AFTER_SECONDS, self._target.hang_seconds / 2)
        ):
            return False
        self._next_check = now + CHECK_OTHERS_SECONDS
        records = self._folder.do(read_records, POLL_SECONDS) or {}
        others = [record["ended"] for rank, record in records.items() if rank != self._target.rank]
        is_lost = self._stall.seconds >= LOST_SECONDS and not beat.is_paused and not self._has_exit_code
        return "hang" in others or (is_lost and any(ended == "silent" or ended["code"] not in FINE for ended in others))

    def _write_record(self, ended: object, when: float, beat: Heartbeat) -> tuple[Report, bool]:
        """This rank's record, and whether it could be written. `beat`: where it was."""
        target = self._target
        who = {"rank": target.rank, "host": target.hosts[target.rank], "pid": target.pid, "main_thread": target.main_thread}
        where = {"step": beat.step, "micro_batch": beat.micro_batch, "phase": beat.phase, "beat": beat.number}
        state = {"silent_seconds": round(self._stall.seconds, 1), "state": process_state(target.pid)}
        report: Report = {**who, **where, **state, "time": when, "ended": ended}

        def write(folder: Path) -> bool:
            if not (isinstance(ended, dict) and ended["code"] in NO_FOLDER_CODES):
                folder.mkdir(parents=True, exist_ok=True)
            write_text_atomically(record_file(folder, target.rank), json.dumps(report) + "\n")
            return True

        return report, bool(self._folder.do(write))

    def _end_hang(self) -> None:
        """Report, let the rank that is first among those that hang name who is behind, and kill the own one."""
        own, is_written = self._write_record("hang", time.time(), read_heartbeat(self._memory))
        is_stopped = own["state"] == STOPPED
        stack = "" if is_stopped else self._dump()
        reports = self._gather(own) if is_written else {own["rank"]: own}  # nobody can be heard then, nor hear
        if is_stopped:  # only now: it goes on for a moment, which may wake the others, whose watchers have made up their minds
            stack = self._dump(wake=True)
        if own["rank"] == min(rank for rank, report in reports.items() if report["ended"] == "hang"):
            self._publish_report(own, reports, stack, is_written)
        else:
            self._wait(lambda folder: (folder / HANG).exists(), HANG_REPORT_SECONDS)
        self._kill()

    def _kill_leftover(self) -> None:
        """Kill a rank that has told its end and does not leave: it would hold its device, and the others, for ever."""
        target = self._target
        who = f"rank {target.rank} on {target.hosts[target.rank]}"
        sys.stderr.write(f"{who} has ended, but its process {target.pid} is still there after {EXIT_SECONDS:g} s: killed\n")
        sys.stderr.flush()
        self._dump()
        self._kill()

    def _kill(self) -> None:
        if os.getppid() == self._target.pid:
            os.kill(self._target.pid, signal.SIGKILL)  # nothing milder ends a process in a dead collective

    def _dump(self, *, wake: bool = False) -> str:
        """Ask the rank for the stacks of its threads and put them in the folder. `wake` lets a stopped one run just for that."""
        pid, deadline, text = self._target.pid, time.monotonic() + DUMP_SECONDS, ""
        with suppress(ProcessLookupError):
            os.kill(pid, DUMP_SIGNAL)
            if wake:
                os.kill(pid, signal.SIGCONT)
            while time.monotonic() < deadline:
                text = os.pread(self._stacks, 1 << 20, 0).decode(errors="replace")
                if is_complete_dump(text, self._target.main_thread):
                    break
                time.sleep(0.05)
            if wake:
                os.kill(pid, signal.SIGSTOP)
        answer = text or f"no stack within {DUMP_SECONDS:g} s; the process is in state {process_state(pid)} of /proc/{pid}/stat\n"
        self._folder.do(lambda folder: write_text_atomically(stack_file(folder, self._target.rank), answer))
        return answer

    def _gather(self, own: Report) -> dict[int, Report]:
        """The reports of all ranks; after a bounded time, those that came."""
        reports = {own["rank"]: own}

        def are_all_in(folder: Path) -> bool:
            os.utime(folder)  # NFS may show a folder as it was half a minute ago, until one changes it oneself
            reports.update({rank: report for rank, report in read_records(folder).items() if rank != own["rank"]})
            return len(reports) == len(self._target.hosts)

        self._wait(are_all_in, GATHER_SECONDS)
        return reports

    def _publish_report(self, own: Report, reports: dict[int, Report], stack: str, is_written: bool) -> None:
        """Name who is behind: on the terminal, in hang.json, in events.jsonl. The terminal comes first, a disk may be dead."""
        stacks = {own["rank"]: stack}

        def are_all_in(folder: Path) -> bool:
            os.utime(folder)
            for rank, report in reports.items():
                path = stack_file(folder, rank)
                if report["ended"] == "hang" and rank not in stacks and path.exists():
                    stacks[rank] = path.read_text(errors="replace")
            return all(rank in stacks or report["ended"] != "hang" for rank, report in reports.items())

        if is_written:
            self._wait(are_all_in, STACKS_SECONDS)
        verdict = build_hang_report(own, reports, stacks, self._target.hosts if is_written else [])
        folder = self._target.folder
        sys.stderr.write(verdict.line(f"stacks in {folder}/" if is_written else f"{folder}/ cannot be written") + "\n")
        sys.stderr.flush()
        content = {"time": time.time(), "step": own["step"], **verdict.to_json()}
        self._folder.do(lambda folder: append_event(folder.parent / "events.jsonl", own["step"], verdict))
        self._folder.do(lambda folder: write_text_atomically(folder / HANG, json.dumps(content, indent=1) + "\n"))

    def _wait(self, happened: Callable[[Path], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._folder.do(happened) and time.monotonic() < deadline:
            time.sleep(FOLDER_POLL_SECONDS)


def process_state(pid: int) -> str:
    """The kernel's letter, "?" where there is no such process."""
    stat = read_stat(pid)
    return stat.state if stat else "?"


def is_complete_dump(stacks: str, main_thread: int) -> bool:
    """Whether a dump has come to its end: the outermost frame of the thread that was there first, or the hundredth."""
    _, _, last = stacks.rpartition(f"0x{main_thread:016x}")
    return last != stacks and last.endswith((" in <module>\n", "\n  ...\n"))


def append_event(path: Path, step: int, verdict: HangReport) -> None:
    """One whole line at the end of the log. Its owner, rank 0's process, does not write any more: it hangs, and is killed next."""
    behind = [{"rank": one.rank, "host": one.host, "why": one.why} for one in verdict.behind]
    row: dict[str, Any] = {"time": time.time(), "event": "hang", "step": step, "seconds": verdict.seconds, "behind": behind}
    if path.exists():  # else no run began here
        append_whole((json.dumps(row) + "\n").encode(), path)


def main(memory: int, pipe: int, stacks: int) -> None:
    """What a watcher's process runs; the arguments are descriptors that it has inherited."""
    protect_terminal()
    # Stop requests are blocked already; a terminal that closes must not end it before its rank either.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    target = WatchTarget(**json.loads(os.pread(memory, 1 << 24, SIZE)))
    Watcher(target, mmap(memory, SIZE, prot=PROT_READ), pipe, stacks).watch()
    os._exit(0)  # a thread may wait for a disk that never answers
