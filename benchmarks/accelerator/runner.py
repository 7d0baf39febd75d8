"""Run checks in worker processes, each check with a time limit, and collect their results. Torch-free.

A lane is one worker process that runs its checks in turn. Lanes that do not measure time run at the same time. A worker that raises,
dies or exceeds a time limit is replaced by a new one for the remaining checks of its lane.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerator.checks import Check
from accelerator.processes import MARK, kill_marked
from accelerator.result import CANNOT, FAIL, WHOLE, Outcome, Row

SCRIPT = Path(__file__).parents[1] / "accelerator_check.py"
LOOK_SECONDS, ENDING_SECONDS = 0.2, 10.0
LOGS = "logs"
"""The folder for the workers' output."""
INTERRUPTED, TOO_LATE = "interrupted", "the time for all checks was used up"
NOT_A_FAILURE = (INTERRUPTED, TOO_LATE)
"""Problems that count as `cannot run here`, because the check itself did not fail."""


@dataclass
class Run:
    """State that all lanes of one call share."""

    device: str
    out: Path
    deadline: float
    """By time.monotonic(). After it no check starts or continues."""
    on_outcome: Callable[[Outcome], None]
    """Called after each check, from any thread, under a lock."""
    is_stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, outcome: Outcome) -> None:
        """Pass the outcome of a check to `on_outcome`."""
        with self._lock:
            self.on_outcome(outcome)

    def run_lanes(self, lanes: dict[str, list[Check]], at_once: int) -> None:
        """Run all checks of all lanes, `at_once` lanes at a time. If an exception ends this early, the workers are ended too."""
        pool = ThreadPoolExecutor(at_once)
        try:
            futures = [pool.submit(self.run_lane, name, checks) for name, checks in lanes.items()]
            for future in futures:
                future.result()
        except BaseException:
            self.is_stopped.set()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def run_lane(self, name: str, checks: list[Check]) -> None:
        """Run one worker after the other, until every check has an outcome."""
        left = list(checks)
        while left:
            if self.is_stopped.is_set() or time.monotonic() >= self.deadline:
                why = INTERRUPTED if self.is_stopped.is_set() else TOO_LATE
                for check in left:
                    self.report(Outcome(check.name, check.seconds, [Row(WHOLE, CANNOT, why)]))
                return
            worker = Worker(name, left, self)
            try:
                while left and worker.run(left[0]):
                    left.pop(0)
            finally:
                worker.end()
            left = left[1:]


class Worker:
    """A process that runs checks in turn and sends their rows through a pipe, one JSON object per line."""

    def __init__(self, lane: str, checks: list[Check], run: Run) -> None:
        """Start the process. When this process ends, the worker reads end-of-file from a second pipe and ends too."""
        self._run, self._unread, self._mark = run, b"", uuid.uuid4().hex
        self._log = run.out / LOGS / f"{lane}.log"
        self._log.parent.mkdir(exist_ok=True)
        self._pipe, writes = os.pipe()
        reads, self._lifeline = os.pipe()
        words = [str(writes), str(reads), *(json.dumps(asdict(check)) for check in checks)]
        command = [sys.executable, str(SCRIPT), "--device", run.device, "--out", str(run.out), "--worker", *words]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=os.environ | {MARK: self._mark}, stdout=log, stderr=log, pass_fds=[writes, reads], start_new_session=True
            )
        os.close(writes)
        os.close(reads)

    def run(self, check: Check) -> bool:
        """Wait for the end of this check and report its outcome. Return True if the process continues with the next check."""
        start = time.monotonic()
        outcome = Outcome(check.name, check.seconds)
        while "row" in (message := self._read(start + check.seconds)):
            outcome.rows.append(Row(**message["row"]))
        outcome.seconds = time.monotonic() - start
        if problem := message.get("problem", "" if outcome.rows else "found nothing"):
            outcome.rows.append(Row(WHOLE, CANNOT if problem in NOT_A_FAILURE else FAIL, problem))
        self._run.report(outcome)
        return "end" in message

    def end(self) -> None:
        """Kill the process and its descendants."""
        kill_marked(self._mark)
        with suppress(subprocess.TimeoutExpired):  # the kernel may keep a process that uses a device
            self._process.wait(ENDING_SECONDS)
        os.close(self._pipe)
        os.close(self._lifeline)

    def _read(self, deadline: float) -> dict[str, Any]:
        """Return the worker's next message, or a `problem` if there is none: stopped, too late, killed or died."""
        while b"\n" not in self._unread:
            seconds = deadline - time.monotonic()
            if self._run.is_stopped.is_set():
                return {"problem": INTERRUPTED}
            if time.monotonic() >= self._run.deadline:
                return {"problem": TOO_LATE}
            if seconds <= 0:
                return {"problem": f"exceeded its time box and was killed; see {LOGS}/{self._log.name} and scratch/ in {self._run.out}"}
            if not select.select([self._pipe], [], [], min(seconds, LOOK_SECONDS))[0]:
                continue
            read = os.read(self._pipe, 1 << 16)
            if not read:
                return {"problem": f"its process died: {self._ending()}"}
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def _ending(self) -> str:
        code = self._process.wait(ENDING_SECONDS)
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"{how}; last line: {lines[-1][-300:] if lines else 'none'}"
