"""/dev/shm, the shared memory through which worker processes pass batches to the training process. Checks that it is large enough, and
turns failures of workers into one-line errors with the reason and the remedy."""

import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from model.batch import Batch, Masks, Segments
from recipes.errors import ConfigError
from recipes.system.processes import WorkerLost

FOLDER = Path("/dev/shm")
PREFETCH = 2
"""Micro-batches that each worker process reads ahead."""
UPDATES_HELD = 2
"""Updates whose batches the training process holds: the current one and the next one."""
ALONE = "read without worker processes: --set data.num_workers=0"
REMEDY = f"give the container more (docker run --shm-size=8g or --ipc=host), or {ALONE}"
FULL, NO_DESCRIPTOR = "no space left on device", "too many open files"
"""Parts of the messages of torch (in a RuntimeError) and of Python."""
NONE_RECEIVED = "items of ancdata"
"""Part of Python's message (in a RuntimeError) if it had no free descriptor to receive one."""


class SharedMemory:
    """Checks that /dev/shm is large enough. Its free bytes are measured before any worker process of this rank starts."""

    def __init__(self, num_workers: int, ranks_on_node: int) -> None:
        """`ranks_on_node`: number of ranks that share this memory."""
        self._num_workers, self._num_ranks = num_workers, ranks_on_node
        self._free = shutil.disk_usage(FOLDER).free if FOLDER.is_dir() else None

    def check(self, batches: Sequence[Batch]) -> None:
        """Check that all batches that exist at the same time fit into the shared memory. `batches`: the micro-batches of one update.
        Raises: ConfigError if they do not fit."""
        size = max(map(bytes_of, batches))
        num_held = UPDATES_HELD * len(batches) + PREFETCH * self._num_workers
        needed = num_held * size * self._num_ranks
        if self._free is not None and needed > self._free:
            raise ConfigError(
                f"{FOLDER} has {self._free / 1e6:,.0f} MB free, and the batches of the data workers need {needed / 1e6:,.0f} MB "
                f"({num_held} micro-batches of {size / 1e6:,.1f} MB a rank, ranks on this node: {self._num_ranks}, data.num_workers: "
                f"{self._num_workers}); {REMEDY}"
            )


@contextmanager
def worker_errors_as_config_errors(num_workers: int) -> Iterator[None]:
    """In this block, the errors of taking a batch from a worker process that the user can fix become a ConfigError: a killed worker, a full
    /dev/shm, too many open files. Other errors are not changed."""
    try:
        yield
    except WorkerLost as lost:
        remedy = REMEDY if lost.code == -signal.SIGBUS else f"give the job more memory, or {ALONE}"
        raise ConfigError(f"a data worker process (data.num_workers={num_workers}) {lost}; {remedy}") from lost
    except (OSError, RuntimeError) as error:
        text = str(error).partition("\n")[0]
        if FULL in text.lower():
            raise ConfigError(f"{FOLDER} is full, a data worker process could not hand on its batch ({text}); {REMEDY}") from error
        if NONE_RECEIVED in text:
            text = f"Too many open files ({text})"
        if NO_DESCRIPTOR in text.lower():
            raise ConfigError(f"{text}: each batch of a data worker process takes several; ulimit -n 65536, or {ALONE}") from error
        raise


def bytes_of(value: Any) -> int:
    """Return how many bytes the tensors of a batch take. A tensor that occurs twice counts once."""
    return sum({storage.data_ptr(): storage.nbytes() for storage in map(Tensor.untyped_storage, _tensors(value))}.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Batch | Masks | Segments):
        for item in fields(value):
            yield from _tensors(getattr(value, item.name))
