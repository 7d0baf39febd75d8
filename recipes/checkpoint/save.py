"""Writes checkpoints in the background: a host copy at a step boundary, then the files. The complete folder appears in one operation.

When a save is due, and which events report it, is decided in recipes/train/saving.py.
"""

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recipes.checkpoint.layout import (
    Counters,
    FileEntry,
    Manifest,
    Range,
    check_files,
    name_best,
    range_to_json,
    read_manifest,
    step_folder,
    write_manifest,
)
from recipes.checkpoint.live import LiveState, entries, owned_shards
from recipes.checkpoint.retention import apply_retention, remove_folder
from recipes.checkpoint.tensor_file import HASHED_ELEMENTS, hashes_of, write_tensors
from recipes.cluster.world import World, build_control_group
from recipes.config import CheckpointConfig
from recipes.errors import ConfigError, DamagedCheckpoint
from recipes.system.durable import sync, write_text_atomically


@dataclass(frozen=True)
class SaveOutcome:
    """How a save ended. `problem`: None if the checkpoint is complete, else the reason; `leftover`: why an outdated checkpoint could not
    be removed, or None. Both are the same on every rank. The seconds are this rank's; `bytes` counts all ranks' files."""

    step: int
    problem: str | None
    leftover: str | None
    copy_seconds: float
    write_seconds: float
    bytes: int


class CheckpointSaver:
    """Saves the state of a run in the background, one save at a time. Every rank calls every method at the same step."""

    def __init__(
        self, run_dir: Path, live: LiveState, world: World, config: CheckpointConfig, check_owner: Callable[[], None] | None = None
    ) -> None:
        """Make a process group for the writing threads; all ranks must call this together. `check_owner` runs on rank 0, before a
        checkpoint is written and again before it becomes visible. It raises ConfigError if another process has taken over the run dir."""
        self._run_dir, self._live, self._config, self._check_owner = run_dir, live, config, check_owner or (lambda: None)
        world.gather(None)  # fails if a rank has ended; new_group would wait for that rank silently
        self._world = replace(world, control=build_control_group())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._host: dict[str, Tensor] = {}
        self._running: Future[SaveOutcome] | None = None

    @property
    def is_busy(self) -> bool:
        """True from begin() until finish(): a save is running, or its outcome is not yet taken."""
        return self._running is not None

    def is_written(self) -> bool:
        """True if a save was begun and has ended on this rank, so that finish() does not wait. Raises: the exception that ended it,
        unless it is a ConfigError, which finish() raises."""
        if self._running is None or not self._running.done():
            return False
        error = self._running.exception()
        if error is not None and not isinstance(error, ConfigError):  # a ConfigError is raised on all ranks, by finish()
            raise error
        return True

    def begin(self, counters: Counters, metadata: dict[str, Any]) -> None:
        """Begin a save: copy this rank's shards to host memory while training waits, then write them in the background. Call finish() for
        the previous save first. `metadata`: recipe, versions and small states, which are written into the manifest."""
        assert self._running is None, "call finish() for the previous save first"
        start = time.perf_counter()
        places = {}
        for key, place, shard in owned_shards(self._live):
            places[key] = place
            if key not in self._host:
                self._host[key] = torch.empty(shard.shape, dtype=torch.float32)
            self._host[key].copy_(shard)
        parallel = self._live.parallel
        manifest = Manifest(counters, parallel.tp_size, parallel.dp_size, entries(self._live), (), metadata)
        seconds = time.perf_counter() - start
        self._running = self._thread.submit(self._write, manifest, places, seconds)

    def finish(self) -> SaveOutcome:
        """Wait for the running save and return its outcome. Raises: ConfigError if another process has taken over the run dir."""
        assert self._running is not None
        running, self._running = self._running, None
        return running.result()

    def close(self) -> None:
        """Wait for the running save, whether it succeeds or fails. The saver cannot be used afterwards."""
        self._thread.shutdown(wait=True)

    def _write(self, manifest: Manifest, places: dict[str, Range], copy_seconds: float) -> SaveOutcome:
        start = time.perf_counter()
        target = step_folder(self._run_dir, manifest.counters.step)
        # A unique name: a rank that outlived a killed launch must not write into the folder of the next launch.
        temporary = self._world.on_rank_zero(lambda: target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp"))
        problem = self._world.on_rank_zero(lambda: problem_of(lambda: self._make_folder(temporary)))
        files: list[FileEntry] = []
        if problem is None:
            problem, files = self._write_files(temporary, places)
        if problem is None:
            complete = replace(manifest, files=tuple(files))
            problem = self._world.on_rank_zero(lambda: problem_of(lambda: self._publish(temporary, target, complete)))
        leftover = self._world.on_rank_zero(lambda: problem_of(lambda: self._clean_up(temporary, problem)))
        num_bytes = sum(file.bytes for file in files)
        return SaveOutcome(manifest.counters.step, problem, leftover, copy_seconds, time.perf_counter() - start, num_bytes)

    def _make_folder(self, temporary: Path) -> None:
        """Create the temporary folder. Raises: ConfigError if another process has taken over the run dir; OSError if the run dir is
        gone, which is not created again."""
        self._check_owner()
        temporary.parent.mkdir(exist_ok=True)
        temporary.mkdir()

    def _write_files(self, folder: Path, places: dict[str, Range]) -> tuple[str | None, list[FileEntry]]:
        """Write this rank's file into `folder`. Return (problem, entries of all ranks' files). The problem is that of the lowest rank that
        has failed, or None if every rank has written its file. `places`: KIND/PARAMETER -> the range that this rank writes; a rank
        without any writes no file."""
        written: list[FileEntry] = []
        problem = problem_of(lambda: written.append(self._write_file(folder, places))) if places else None
        answers: list[Any] = [None] * self._world.size
        dist.all_gather_object(answers, (problem, written), group=self._world.control)
        return next((text for text, _ in answers if text), None), [entry for _, own in answers for entry in own]

    def _write_file(self, folder: Path, places: dict[str, Range]) -> FileEntry:
        path = folder / f"rank_{self._world.rank:05d}.safetensors"
        metadata = {key: range_to_json(place.with_hashes(hashes_of(self._host[key]), HASHED_ELEMENTS)) for key, place in places.items()}
        shapes = {key: (place.count,) for key, place in places.items()}
        header_sha256 = write_tensors(path, shapes, (self._host[key] for key in places), metadata)
        parallel = self._live.parallel
        return FileEntry(path.name, path.stat().st_size, header_sha256, parallel.tp_rank, parallel.dp_rank)

    def _publish(self, temporary: Path, target: Path, manifest: Manifest) -> None:
        """Write the manifest, rename the temporary folder to `target`, where it is visible, then name it in the file `latest`, and
        before in the file `best` if its evaluation is the best one so far."""
        write_manifest(temporary, manifest)
        check_files(temporary, read_manifest(temporary))
        self._check_owner()
        if target.exists():  # a damaged checkpoint, or a newer one from which the run has fallen back
            remove_folder(target)
        temporary.rename(target)
        sync(target.parent)
        sync(self._run_dir)  # the first save has created the folder checkpoints/
        if manifest.metadata.get("best", {}).get("step") == manifest.counters.step:  # before `latest`: a run that resumes here has it
            name_best(self._run_dir, manifest.counters.step)
        write_text_atomically(target.parent / "latest", target.name + "\n")

    def _clean_up(self, temporary: Path, problem: str | None) -> None:
        """Remove outdated checkpoints if the save succeeded (`problem` is None). Otherwise remove the temporary folder, so that it does not
        fill the disk."""
        if problem is None:
            apply_retention(self._run_dir, self._config)
        else:
            shutil.rmtree(temporary, ignore_errors=True)


def problem_of(job: Callable[[], Any]) -> str | None:
    """Run `job`. Return None if it succeeded, or the message of its OSError or DamagedCheckpoint. Any other exception is raised."""
    try:
        job()
    except OSError as error:
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    except DamagedCheckpoint as error:
        return str(error)
    return None
