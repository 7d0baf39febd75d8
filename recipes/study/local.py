"""Trains the runs of a study on this machine, a given number at a time. Every run is a process of its own. Torch-free.

A driver that is killed leaves its runs going; the next one waits for them instead of starting them again.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from recipes.cluster.environment import may_see_devices, num_devices
from recipes.errors import Stopped
from recipes.study.attempts import Attempts, saved_step
from recipes.study.failure import ending_of
from recipes.study.run_command import ROOT, local_command
from recipes.study.run_folder import Run
from recipes.study.run_state import RunState, is_owned
from recipes.study.study_file import Study
from recipes.system.exclusive import exclusively
from recipes.system.processes import handling_stop_requests

POLL_SECONDS = 0.2
STOP_SECONDS = 120.0
"""How long runs may take to save after a request to stop."""
LOCK = ".driver.lock"
STOPPED = Stopped.exit_code
STOP_FILE = "stop"
Say = Callable[[str], None]


@dataclass
class Active:
    """A run that is going on. `process` None: an earlier driver started it."""

    run: Run
    process: subprocess.Popen[bytes] | None
    since: float
    devices: Sequence[str] = ()
    """The GPUs that it uses."""


class LocalRuns:
    """Runs of a study that are trained on this machine, `at_once` at a time."""

    def __init__(self, study: Study, data: Mapping[str, Path], *, at_once: int, retries: int, say: Say) -> None:
        """`data`: run key -> prepared folder. `retries`: how often a failed run is started again without a new checkpoint."""
        self._study, self._data, self._at_once, self._retries, self._say = study, data, at_once, retries, say
        self.attempts = Attempts(study.out)
        self._active: list[Active] = []
        self._num_requests = 0

    @property
    def _is_stopped(self) -> bool:
        return self._num_requests > 0

    def train(self, runs: Sequence[Run]) -> list[Run]:
        """Train the runs that are not done, and return those that have failed as often as they may. Raises: Stopped, after a request to
        stop, when every run has saved."""
        waiting = [run for run in runs if self.attempts.state_of(run).state != "done"]
        waiting.sort(key=self._is_elsewhere, reverse=True)  # what an earlier driver has started counts for the runs at a time
        given_up = list[Run]()
        with handling_stop_requests(self._request_stop):
            while (waiting or self._active) and not self._is_stopped:
                while waiting and len(self._active) < self._at_once:
                    run = waiting.pop(0)
                    if self._is_elsewhere(run):
                        self._active.append(Active(run, None, time.time(), self.attempts.devices_of(run)))
                        self._say(f"{run.name}: is going on already")
                    elif self.attempts.num_failures(run) > self._retries:
                        given_up.append(run)
                    else:
                        self._start(run)
                waiting += [active.run for active in self._ended() if self._finish(active)]
                time.sleep(POLL_SECONDS)
            if self._is_stopped:
                self._stop()
        return given_up

    def _is_elsewhere(self, run: Run) -> bool:
        """True if a process that is none of this driver's trains the run."""
        return self.attempts.process_of(run) is not None or is_owned(run.path)

    def _start(self, run: Run) -> None:
        log = log_of(self._study, run)
        log.parent.mkdir(parents=True, exist_ok=True)
        words, devices = local_command(self._study, run, self._data[run.key]), self._free_devices(run.cell.ranks)
        with log.open("ab") as output:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            process = subprocess.Popen(words, cwd=ROOT, env=self._env(run, devices), start_new_session=True, **streams)
        self.attempts.begin(run, process.pid, devices)
        self._active.append(Active(run, process, time.time(), devices))
        self._say(f"{run.name}: started, {log}")

    def _free_devices(self, count: int) -> list[str]:
        taken = {device for active in self._active for device in active.devices}
        return [device for device in visible_devices() if device not in taken][:count]

    def _env(self, run: Run, devices: Sequence[str]) -> dict[str, str]:
        """Return the environment of a run: its part of the machine's cores and GPUs, and the study as the group of its wandb runs."""
        threads = max(1, len(os.sched_getaffinity(0)) // (self._at_once * run.cell.ranks))
        env = {"OMP_NUM_THREADS": str(threads), "WANDB_RUN_GROUP": self._study.name} | os.environ
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), env.get("PYTHONPATH"))))
        return env | ({"CUDA_VISIBLE_DEVICES": ",".join(devices)} if may_see_devices() else {"DS_ACCELERATOR": "cpu"})

    def _ended(self) -> Iterator[Active]:
        for active in list(self._active):
            if self._is_going_on(active):
                continue
            self._active.remove(active)
            yield active

    def _is_going_on(self, active: Active) -> bool:
        if active.process is not None:
            return active.process.poll() is None
        return self._is_elsewhere(active.run)

    def _finish(self, active: Active) -> bool:
        """Record how a run ended, and report it. Returns True unless it is done."""
        run, code = active.run, active.process.returncode if active.process else None
        state = self.attempts.state_of(run)
        if state.state == "done":
            self.attempts.end(run, 0, "", failed=False)
            self._say(f"{run.name}: done in {time.time() - active.since:,.0f} s")
            return False
        was_asked = code == STOPPED or (code is None and state.state == "stopped")
        if self._is_stopped or (was_asked and self.attempts.has_progressed(run)):
            self.attempts.end(run, STOPPED, state.reason, failed=False)
            self._say(f"{run.name}: {f'saved at step {saved_step(run)}' if saved_step(run) else 'stopped before its first checkpoint'}")
            return True
        reason = self._reason(run, code, state)
        self.attempts.end(run, code, reason, failed=True)
        tries = self.attempts.num_failures(run)
        again = f"try {tries} of {self._retries + 1}" if tries <= self._retries else f"given up after {tries} tries"
        self._say(f"{run.name}: failed ({reason}); {again}")
        return True

    def _reason(self, run: Run, code: int | None, state: RunState) -> str:
        """Return why a start of the run failed, in one line."""
        if code == STOPPED:
            return f"{state.reason or 'stopped'}, without a new checkpoint"
        if code == 0:
            return "ended with exit code 0 before its last update"
        return ending_of(code, log_of(self._study, run)) if code is not None else state.reason

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self._num_requests += 1

    def _stop(self) -> None:
        """Ask all active runs to save and end, and wait for them. A second request, or STOP_SECONDS, kills those that are left. Raises:
        Stopped."""
        self._say(f"stopping: {len(self._active)} runs save and end")
        for active in self._active:
            if is_owned(active.run.path):
                (active.run.path / STOP_FILE).touch()
            else:
                self._signal(active, signal.SIGTERM)  # nothing to save yet
        deadline = time.monotonic() + STOP_SECONDS
        while self._active and time.monotonic() < deadline and self._num_requests == 1:
            for active in self._ended():
                self._finish(active)
            time.sleep(POLL_SECONDS)
        for active in self._active:
            self._signal(active, signal.SIGKILL)
        raise Stopped(f"the study is stopped; the same command continues: {self._study.path}")

    def _signal(self, active: Active, number: signal.Signals) -> None:
        """Send a signal to all processes of a run, which are a group of their own."""
        pid = active.process.pid if active.process else self.attempts.process_of(active.run)
        if pid:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)


def visible_devices() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    listed = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    return listed[: num_devices()] if listed else [str(number) for number in range(num_devices())]


def log_of(study: Study, run: Run) -> Path:
    """Return the file into which a run on this machine prints."""
    return study.out / "logs" / run.cell.name / f"{run.path.name}.log"


@contextmanager
def only_driver(study: Study) -> Iterator[None]:
    """Let one process at a time train the study's runs on this machine. Raises: ConfigError if another one does."""
    study.out.mkdir(parents=True, exist_ok=True)
    with exclusively(study.out / LOCK, f"{study.out}: another process submits this study; wait for it, or stop it"):
        yield
