"""Cells of the comparison: each is one result that is computed once and kept in a file, so that an interrupted command goes on."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recipes.cluster.checkout import ROOT
from recipes.errors import ConfigError, Stopped
from recipes.system.durable import write_text_atomically
from recipes.system.processes import handling_stop_requests

Result = dict[str, Any]


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Cell:
    """One result, and the function that computes it."""

    name: str
    compute: Callable[[], Result]
    made_from: str = ""
    """What the result depends on, such as recipe and settings, in one text. It is kept with the result."""
    clean: Callable[[], None] = nothing
    """Removes what is not needed when the result is kept."""


@dataclass
class Cells:
    """The finished cells of a folder, and the processes that compute others."""

    out: Path
    """Folder of runs and logs, which are not needed when a cell is finished."""
    kept: Path
    """Folder of the results, each in a file below cells/, and of the encoders."""
    jobs: int
    """Cells that are computed at the same time, each with one thread."""
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_stopped: bool = False
    _first_error: BaseException | None = None

    def path(self, name: str) -> Path:
        """Return the file of a cell."""
        return self.kept / "cells" / f"{name}.json"

    def get(self, name: str) -> Result | None:
        """Return the result of a cell; None if it is not finished. Raises: ConfigError if its file cannot be read."""
        path = self.path(name)
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ConfigError(f"{path}: cannot be read ({error}); remove it, and the same command computes it again") from None

    def finish(self, cells: Iterable[Cell]) -> None:
        """Compute the cells that are not finished, `jobs` at a time, in their order. Raises: Stopped after a request to stop; the error of
        the first cell that fails. Those that run save before."""
        waiting = [cell for cell in cells if not self._is_finished(cell)]
        with handling_stop_requests(self._stop), ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self._compute, cell) for cell in waiting]
            for future in futures:
                future.add_done_callback(self._end_others)
            for number, (cell, future) in enumerate(zip(waiting, futures, strict=True), start=1):
                wait([future])
                if self._first_error is None:
                    print(f"{number}/{len(waiting)} {cell.name}: {in_words(future.result())}", flush=True)
        if self._first_error is not None:
            raise self._first_error

    def _is_finished(self, cell: Cell) -> bool:
        result = self.get(cell.name)
        if result is None:
            return False
        if result.get("made_from", "") != cell.made_from:
            raise ConfigError(
                f"{self.path(cell.name)}: was computed from other settings or another recipe; remove it and what has its name in "
                f"{self.out}, and the same command computes it again"
            )
        cell.clean()  # what a kill has left
        return True

    def _end_others(self, future: Future[Result]) -> None:
        """After the first cell that fails, begin no other one, and stop those that run."""
        error = future.exception()
        if error is not None and self._first_error is None:
            self._first_error = error
            self._stop()

    def _compute(self, cell: Cell) -> Result:
        self._check_goes_on()
        began = time.time()
        result = cell.compute() | {"cell": cell.name, "made_from": cell.made_from, "date": datetime.now(UTC).date().isoformat()}
        result.setdefault("seconds", round(time.time() - began, 1))
        path = self.path(cell.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, json.dumps(result, indent=1) + "\n")
        cell.clean()
        return result

    def _check_goes_on(self) -> None:
        if self._is_stopped:
            raise Stopped("stopped on request; what is finished is kept, and the same command goes on")

    def _stop(self, *signal_and_frame: object) -> None:
        """Begin no other cell, and ask the scripts that run to save and end. A second request of the user ends them at once."""
        with self._lock:  # no thread holds it while it waits
            request = signal.SIGKILL if self._is_stopped and signal_and_frame else signal.SIGTERM
            self._is_stopped = True
            for process in self._running:
                process.send_signal(request)

    def run(self, words: Sequence[object], log: Path, codes: Sequence[int] = (0,)) -> int:
        """Run one of the project's scripts with one thread, and return its exit code. Its output is added to `log`. Raises: ConfigError if
        the code is not one of `codes`; Stopped."""
        log.parent.mkdir(parents=True, exist_ok=True)
        texts = [str(word) for word in words]
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with log.open("a") as file:
            with self._lock:
                self._check_goes_on()
                process = subprocess.Popen(
                    [sys.executable, *texts], cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
                )
                self._running.add(process)
            code = process.wait()
        with self._lock:
            self._running.discard(process)
        self._check_goes_on()
        if code not in codes:
            raise ConfigError(f"{shlex.join(texts)} ended with {code}; {log} has the reason")
        return code


def in_words(result: Result) -> str:
    """Return a result in a few words."""
    if result.get("mean") is not None:
        error = result.get("standard_error")
        return f"{result['mean']:.4f}" + (f" +- {error:.4f}" if error is not None else "") + f", {result['seconds'] / 60:.1f} min"
    return f"{result['seconds'] / 60:.1f} min"
