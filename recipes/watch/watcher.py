"""The watcher: a process beside each rank. It detects that its rank hangs or ends, writes a record into RUN_DIR/watch, and kills a
rank that hangs.

Standard library only, so that it starts quickly and depends on nothing that can hang. It works although its rank is stopped, never
releases the GIL or waits in a dead collective, and although the file server is dead. hang.py finds the stragglers; watch.py is the
rank's side.
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
from typing import Any

from recipes.errors import EXIT_INTERRUPTED, ConfigError
from recipes.system.durable import write_text_atomically
from recipes.system.json_lines import append_whole
from recipes.system.liveness import read_stat
from recipes.system.signals import signal_main_thread
from recipes.system.terminal import protect_terminal
from recipes.watch.endings import GOOD_CODES, HANG, ranks_with_record, read_records, stack_file
from recipes.watch.flight_recorder import is_dumped, remove_pipe, request_dump
from recipes.watch.hang import HangReport, Report, build_hang_report, is_complete_dump, main_frames
from recipes.watch.heartbeat import SIZE, Heartbeat, read_heartbeat
from recipes.watch.shared_folder import SharedFolder, claim_hang_report, has_hang_or_failure, write_record

DUMP_SIGNAL = signal.SIGRTMIN + 7
"""The signal that makes a rank dump its stacks. NCCL uses SIGUSR1, Slurm and the launchers use the other usual signals."""
MAIN_DUMP_SIGNAL = signal.SIGRTMIN + 8
"""The same for the stack of the main thread alone."""
NO_FOLDER_CODES = (*GOOD_CODES, ConfigError.exit_code, EXIT_INTERRUPTED)
"""Exit codes for which the watcher does not make the folder: if it does not exist, nothing was trained, and the terminal shows why."""
STOPPED = "T"
POLL_SECONDS = 1.0
CHECK_OTHERS_SECONDS, CHECK_OTHERS_AFTER_SECONDS = 2.0, 5.0
"""How often the watcher looks into the folder whether another rank hangs, and the time without a heartbeat of its own rank after
which it begins. If training steps are short, it never looks."""
LOST_SECONDS = 8.0
"""Time without a heartbeat after which a rank counts as hanging if another rank has ended with an error: it may wait for that rank.
gloo reports a dead rank at once, NCCL and a store do not."""
GATHER_SECONDS, DUMP_SECONDS, STACKS_SECONDS, HANG_REPORT_SECONDS, TRACE_SECONDS = 10.0, 3.0, 6.0, 25.0, 5.0
"""How long a watcher waits for the records of all ranks, for one dump, and for the stacks of stopped ranks; and since it detected the
hang, for hang.json and for the flight recorder's file. Handling a hang takes less than 30 s in all."""
MOST_READS = 64
"""How many records the watcher that reports a hang reads at a time, or an eighth of all if that is more."""
EXIT_SECONDS = 30.0
"""How long a rank may go on running after it has reported its exit code. Pauses (waits for a disk) do not count."""
FOLDER_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class WatchTarget:
    """The rank that a watcher watches, and the folder for its record. The rank writes this into the shared memory."""

    folder: str
    rank: int
    hosts: list[str]
    pid: int
    main_thread: int
    hang_seconds: float
    """Time without a heartbeat that counts as a hang. 0 turns hang detection off."""


class Stall:
    """Measures the time without a heartbeat. Time in which the watcher itself did not run is not counted, so that a pause of the whole
    machine or of the job (scontrol suspend, Ctrl-Z) is not a hang."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last: Heartbeat | None = None
        self._last_update = time.monotonic()

    def update(self, beat: Heartbeat) -> None:
        """Add the time since the last call if the heartbeat has not changed. Call it every POLL_SECONDS or more often."""
        now = time.monotonic()
        self.seconds = min(self.seconds + min(now - self._last_update, 2 * POLL_SECONDS), now - beat.seconds) if beat == self._last else 0.0
        self._last, self._last_update = beat, now


class Watcher:
    """Watches one rank until it ends."""

    def __init__(self, target: WatchTarget, memory: mmap, pipe: int, stacks: int) -> None:
        """`pipe`: carries the exit code of the rank, and is closed when the rank ends. `stacks`: the file that the rank dumps into."""
        self._target, self._memory, self._pipe, self._stacks = target, memory, pipe, stacks
        self._folder = SharedFolder(Path(target.folder))
        self._stall, self._next_check = Stall(), 0.0
        self._has_exit_code = False
        self._only_thread = f"Current thread 0x{target.main_thread:016x} ("  # faulthandler leaves that out if it dumps one thread

    def watch(self) -> None:
        """Watch the rank until it has ended. Kill it if it hangs."""
        limit = self._target.hang_seconds
        while True:
            if self._read_pipe(min(POLL_SECONDS, limit / 4 or POLL_SECONDS)):
                if not self._has_exit_code:
                    self._write_record(self._report("silent", time.time(), read_heartbeat(self._memory)))
                return
            beat = read_heartbeat(self._memory)
            self._stall.update(beat)
            if self._has_exit_code and self._stall.seconds >= EXIT_SECONDS and not beat.is_paused:
                self._kill_leftover()
                return
            if limit and (self._hangs(beat) or self._another_hangs(beat)):
                self._end_hang()
                return

    def _read_pipe(self, seconds: float) -> bool:
        """Wait up to `seconds` for the exit code of the rank, and write its record. True if the rank's process has ended."""
        ready, _, _ = select.select([self._pipe], [], [], seconds)
        if not ready:
            return os.getppid() != self._target.pid  # a process that the rank forked may hold the pipe open
        received = os.read(self._pipe, select.PIPE_BUF)
        if received:
            ending = json.loads(received)
            self._has_exit_code, self._stall = True, Stall()
            ended = {"code": ending["code"], "message": ending["message"]}
            self._write_record(self._report(ended, ending["time"], Heartbeat(*ending["beat"])))
        return not received

    def _hangs(self, beat: Heartbeat) -> bool:
        """True after `hang_seconds` without a heartbeat. In a pause, which may wait for a disk, only if the process is stopped too."""
        return self._stall.seconds >= self._target.hang_seconds and (not beat.is_paused or process_state(self._target.pid) == STOPPED)

    def _another_hangs(self, beat: Heartbeat) -> bool:
        """True if another rank hangs, or has ended with an error.

        The watcher looks only if this rank is in a pause, or after CHECK_OTHERS_AFTER_SECONDS without a heartbeat (or half of
        `hang_seconds`, if that is less). An error of another rank counts only outside a pause, after LOST_SECONDS without a
        heartbeat, and before this rank has reported its exit code: this rank then waits for something that never comes.
        """
        now = time.monotonic()
        if now < self._next_check or not (
            beat.is_paused or self._stall.seconds >= min(CHECK_OTHERS_AFTER_SECONDS, self._target.hang_seconds / 2)
        ):
            return False
        self._next_check = now + CHECK_OTHERS_SECONDS
        hangs, has_failed = self._folder.do(has_hang_or_failure, POLL_SECONDS) or (False, False)
        is_lost = self._stall.seconds >= LOST_SECONDS and not beat.is_paused and not self._has_exit_code
        return hangs or (is_lost and has_failed)

    def _report(self, ended: object, when: float, beat: Heartbeat) -> Report:
        """Return the record of this rank: how it ended (`ended`), the unix time of that (`when`) and its last heartbeat (`beat`)."""
        target = self._target
        identity = {"rank": target.rank, "host": target.hosts[target.rank], "pid": target.pid, "main_thread": target.main_thread}
        place = {"step": beat.step, "micro_batch": beat.micro_batch, "phase": beat.phase, "beat": beat.number}
        state = {"silent_seconds": round(self._stall.seconds, 1), "state": process_state(target.pid)}
        return {**identity, **place, **state, "time": when, "ended": ended}

    def _write_record(self, report: Report) -> None:
        ended = report["ended"]

        def write(folder: Path) -> None:
            if not (isinstance(ended, dict) and ended["code"] in NO_FOLDER_CODES):
                folder.mkdir(parents=True, exist_ok=True)
            write_record(folder, report)

        self._folder.do(write)

    def _end_hang(self) -> None:
        """Write the record and the stacks of this rank, then kill it. The first watcher that comes here publishes the hang report."""
        own, begin = self._report("hang", time.time(), read_heartbeat(self._memory)), time.monotonic()
        is_stopped, rank = own["state"] == STOPPED, own["rank"]
        is_first = self._folder.do(lambda folder: claim_hang_report(folder, rank))
        trace = None if is_stopped else self._folder.do(lambda _: request_dump(rank))
        if not is_stopped:
            own["frames"] = main_frames(self._dump(), own["main_thread"])
        self._write_record(own)
        reports = self._gather(own) if is_first else {rank: own}
        if is_stopped:  # only now: the dump lets it run for a moment, which may unblock other ranks. Their watchers have reported by now.
            if is_first is False:
                self._wait(self._have_all_reported, GATHER_SECONDS)
            own["frames"] = main_frames(self._dump(wake=True), own["main_thread"])
        if is_first is False:
            self._wait(lambda folder: (folder / HANG).exists(), begin + HANG_REPORT_SECONDS - time.monotonic())
        else:  # also without the folder: watchers cannot see each other then, and each reports its own rank
            self._publish_report(own, reports, is_written=is_first is not None)
        if trace is not None:
            self._wait(lambda _: is_dumped(trace), begin + TRACE_SECONDS - time.monotonic())
        self._kill()

    def _kill_leftover(self) -> None:
        """Kill a rank that has reported its exit code but does not exit. It would hold its device, and block the other ranks, for ever."""
        target = self._target
        name = f"rank {target.rank} on {target.hosts[target.rank]}"
        sys.stderr.write(f"{name} has ended, but its process {target.pid} is still there after {EXIT_SECONDS:g} s: killed\n")
        sys.stderr.flush()
        self._dump()
        self._kill()

    def _kill(self) -> None:
        if os.getppid() == self._target.pid:
            os.kill(self._target.pid, signal.SIGKILL)  # a milder signal does not end a process in a dead collective

    def _dump(self, *, wake: bool = False) -> str:
        """Make the rank dump its stack traces, write them into the folder, and return them. `wake`: the rank is stopped; let it run
        meanwhile, and dump its main thread alone."""
        pid, deadline, text = self._target.pid, time.monotonic() + DUMP_SECONDS, ""
        with suppress(ProcessLookupError):
            # Other threads of a stopped rank run on once it is woken, and a dump of their frames would crash it.
            signal_main_thread(pid, MAIN_DUMP_SIGNAL if wake else DUMP_SIGNAL)
            if wake:
                os.kill(pid, signal.SIGCONT)
            while time.monotonic() < deadline:
                text = os.pread(self._stacks, 1 << 20, 0).decode(errors="replace").replace("Stack (", self._only_thread)
                if is_complete_dump(text, self._target.main_thread):
                    break
                time.sleep(0.05)
            if wake:
                os.kill(pid, signal.SIGSTOP)
        answer = text or f"no stack within {DUMP_SECONDS:g} s; the process is in state {process_state(pid)} of /proc/{pid}/stat\n"
        self._folder.do(lambda folder: write_text_atomically(stack_file(folder, self._target.rank), answer))
        return answer

    def _gather(self, own: Report) -> dict[int, Report]:
        """Wait up to GATHER_SECONDS for the records of all ranks, and return those that have arrived. `own`: that of this rank."""
        reports, num_ranks = {own["rank"]: own}, len(self._target.hosts)

        def are_all_in(folder: Path) -> bool:
            os.utime(folder)  # NFS may show a folder as it was half a minute ago, until this client changes it
            reports.update(read_records(folder, reports, max(MOST_READS, num_ranks // 8)))
            return len(reports) == num_ranks

        self._wait(are_all_in, GATHER_SECONDS)
        return reports

    def _have_all_reported(self, folder: Path) -> bool:
        os.utime(folder)
        return len(ranks_with_record(folder)) == len(self._target.hosts)

    def _publish_report(self, own: Report, reports: dict[int, Report], *, is_written: bool) -> None:
        """Write the hang report to the terminal, then events.jsonl, then hang.json: the disk may be dead."""
        stacks, lacking = dict[int, str](), [r["rank"] for r in reports.values() if r["ended"] == "hang" and not r.get("frames")]

        def are_all_in(folder: Path) -> bool:
            os.utime(folder)
            for rank in [rank for rank in lacking if rank not in stacks][:MOST_READS]:
                path = stack_file(folder, rank)
                if path.exists():
                    stacks[rank] = path.read_text(errors="replace")
            return len(stacks) == len(lacking)

        if is_written:
            self._wait(are_all_in, STACKS_SECONDS)
        hang_report = build_hang_report(own, reports, stacks, self._target.hosts if is_written else [])
        folder = self._target.folder
        sys.stderr.write(hang_report.line(f"stacks in {folder}/" if is_written else f"{folder}/ cannot be written") + "\n")
        sys.stderr.flush()
        content = {"time": time.time(), "step": own["step"], **hang_report.to_json()}
        self._folder.do(lambda folder: append_event(folder.parent / "events.jsonl", own["step"], hang_report))
        self._folder.do(lambda folder: write_text_atomically(folder / HANG, json.dumps(content, indent=1) + "\n"))

    def _wait(self, has_happened: Callable[[Path], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._folder.do(has_happened) and time.monotonic() < deadline:
            time.sleep(FOLDER_POLL_SECONDS)


def process_state(pid: int) -> str:
    """Return the kernel's letter for the state of a process; "?" if there is no such process."""
    stat = read_stat(pid)
    return stat.state if stat else "?"


def append_event(path: Path, step: int, hang_report: HangReport) -> None:
    """Append the hang to the log events.jsonl at `path`, if it exists. Rank 0, the only other writer of that file, hangs and is killed
    next."""
    behind = [{"rank": one.rank, "host": one.host, "why": one.why} for one in hang_report.behind]
    row: dict[str, Any] = {"time": time.time(), "event": "hang", "step": step, "seconds": hang_report.seconds, "behind": behind}
    if path.exists():  # if there is no log, no run began here
        append_whole((json.dumps(row) + "\n").encode(), path)


def main(memory: int, pipe: int, stacks: int) -> None:
    """Run the watcher process. The arguments are inherited file descriptors."""
    protect_terminal()
    # Stop requests are blocked already. The SIGHUP of a closed terminal must not end the watcher before its rank either.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    target = WatchTarget(**json.loads(os.pread(memory, 1 << 24, SIZE)))
    Watcher(target, mmap(memory, SIZE, prot=PROT_READ), pipe, stacks).watch()
    remove_pipe(target.rank)
    os._exit(0)  # a thread may still wait for a dead disk
