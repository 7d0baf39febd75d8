"""Records the operators of a few updates with torch's profiler, in a file that https://ui.perfetto.dev opens (run.profile_steps).

Every rank writes a file of its own, since a wait for another rank shows only beside that rank's work.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function, supported_activities

from recipes.train.step_lines import warn

FOLDER = "profile"


class StepProfiler:
    """Profiles the updates with the numbers `steps` on this rank. It does nothing in any other update. It changes no number."""

    def __init__(self, steps: range = range(0), run_dir: Path = Path(), rank: int = 0) -> None:
        """`steps`: numbers of updates, from 1; empty: none. Those before the first update of this launch are left out."""
        self._steps, self._folder, self._rank = steps, run_dir / FOLDER, rank
        self._profiler: profile | None = None
        self._recorded: list[int] = []

    @contextmanager
    def around(self, due: int) -> Iterator[None]:
        """Record this block if `due`, the number of its update, is to be profiled. After the last one, write the file."""
        if due not in self._steps:
            yield
            return
        if self._profiler is None:
            self._profiler = profile(activities=supported_activities() & {ProfilerActivity.CPU, ProfilerActivity.CUDA})
            self._profiler.start()
        self._recorded.append(due)
        with record_function(f"update {due}"):
            yield
        if due == self._steps[-1]:
            self.close()

    def close(self) -> None:
        """Write what was recorded, if anything, and record nothing more. A run that stops earlier has fewer updates in its file."""
        profiler, self._profiler, self._steps = self._profiler, None, range(0)
        if profiler is None:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # kernels that are still running belong to the last update
        profiler.stop()
        first, last = self._recorded[0], self._recorded[-1]
        path = self._folder / f"rank_{self._rank}_steps_{first}-{last}.json.gz"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{path.name}")  # torch compresses if the name ends with .gz
            profiler.export_chrome_trace(str(unfinished))
            os.replace(unfinished, path)
        except OSError as error:  # such as a full disk, which must not end the training
            warn(f"the profile of updates {first} to {last} on rank {self._rank} was not written: {error}")
        else:
            if self._rank == 0:
                warn(f"profile of updates {first} to {last}: {path}, for https://ui.perfetto.dev")
