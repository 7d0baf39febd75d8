"""The space that worker processes need in /dev/shm, and the one-line error about a lost batch or a lost worker."""

import re
import shutil
import signal
from collections import namedtuple

import pytest
import torch

from model.batch import Batch, Masks
from recipes.data.shared_memory import SharedMemory, bytes_of, told_as_config_errors
from recipes.errors import ConfigError
from recipes.system.processes import WorkerLost

Usage = namedtuple("Usage", "total used free")
REMEDY = r"give the container more \(docker run --shm-size=8g or --ipc=host\), or read without worker processes: --set data\.num_workers=0"


def pictures(count: int) -> Batch:
    """Return a batch with 40,000 bytes per picture, which student and teacher share, and 100 bytes per mask."""
    pixels = torch.zeros(count, 100, 100)
    return Batch(pixels, pixels, Masks(torch.zeros(count, 100, dtype=torch.bool), torch.zeros(0, dtype=torch.int64)), None, None, 0)


def test_a_tensor_that_occurs_twice_counts_once() -> None:
    assert bytes_of(pictures(2)) == 2 * (40_000 + 100)
    assert bytes_of(pictures(2)) == bytes_of(Batch(*[pictures(2).inputs] * 2, pictures(2).masks, None, None, 0))


def room(monkeypatch: pytest.MonkeyPatch, free: int, ranks: int) -> SharedMemory:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free))
    return SharedMemory(2, ranks)


def test_the_batches_of_two_updates_and_those_read_ahead_must_fit_for_every_rank_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three micro-batches per update and two workers: 2 x 3 + 2 x 2 micro-batches of at most 80,200 bytes, on each of four ranks."""
    batches = [pictures(1), pictures(2), pictures(1)]
    needed = 4 * 10 * 80_200
    room(monkeypatch, needed, 4).check(batches)
    with pytest.raises(ConfigError) as caught:
        room(monkeypatch, needed - 1, 4).check(batches)
    assert re.fullmatch(
        r"/dev/shm has 3 MB free, and the batches of the data workers need 3 MB \(10 micro-batches of 0\.1 MB a rank, "
        rf"ranks on this node: 4, data\.num_workers: 2\); {REMEDY}",
        str(caught.value),
    )
    room(monkeypatch, needed // 4, 1).check(batches)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)\nC++ frames"),
            rf"/dev/shm is full, a data worker process could not hand on its batch \(unable .*\(28\)\); {REMEDY}",
        ),
        (OSError(24, "Too many open files"), r".*Too many open files: each batch .* takes several; ulimit -n 65536, or .*num_workers=0"),
        (
            WorkerLost(-signal.SIGKILL),
            r"a data worker process \(data\.num_workers=2\) was killed, probably for lack of memory; give .*",
        ),
        (WorkerLost(-signal.SIGBUS), rf"a data worker process .* was killed by SIGBUS: /dev/shm is full, or a file .*; {REMEDY}"),
        (
            WorkerLost(-signal.SIGSEGV),
            r"a data worker process .* was killed by SIGSEGV, a crash in native code; .*data\.num_workers=0",
        ),
        (WorkerLost(9), r"a data worker process .* ended with exit code 9; .*"),
    ],
    ids=str,
)
def test_a_lost_batch_or_worker_is_one_line_with_cause_and_remedy(error: Exception, line: str) -> None:
    with pytest.raises(ConfigError) as caught, told_as_config_errors(2):
        raise error
    assert re.fullmatch(line, str(caught.value))


@pytest.mark.parametrize("error", [RuntimeError("a defect"), OSError(5, "Input/output error"), ValueError("No space left on device")])
def test_other_errors_are_not_changed(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, told_as_config_errors(2):
        raise error
    assert caught.value is error
