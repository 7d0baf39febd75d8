"""The space that worker processes need in /dev/shm, and the one-line error about a lost batch or a lost worker."""

import re
import shutil
import signal
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.batch import Batch, Masks, Segments
from recipes.data.shared_memory import SharedMemory, bytes_of, worker_errors_as_config_errors
from recipes.errors import ConfigError
from recipes.system.processes import WorkerLost
from tests.distributed import run_command
from tests.launching import ROOT

Usage = namedtuple("Usage", "total used free")
REMEDY = r"give the container more \(docker run --shm-size=8g or --ipc=host\), or read without worker processes: --set data\.num_workers=0"


def pictures(count: int) -> Batch:
    """Return a batch with 40,000 bytes per picture, which student and teacher share, and 100 bytes per mask."""
    pixels = torch.zeros(count, 100, 100)
    return Batch(pixels, pixels, Masks(torch.zeros(count, 100, dtype=torch.bool), torch.zeros(0, dtype=torch.int64)), None, None, 0)


def test_a_tensor_that_occurs_twice_counts_once() -> None:
    assert bytes_of(pictures(2)) == 2 * (40_000 + 100)
    assert bytes_of(pictures(2)) == bytes_of(Batch(*[pictures(2).inputs] * 2, pictures(2).masks, None, None, 0))
    segments = Segments(torch.zeros(2, 5, dtype=torch.int32), torch.zeros(2, 5, dtype=torch.int64))
    assert bytes_of(replace(pictures(2), segments=segments)) == 2 * (40_000 + 100) + 2 * 5 * (4 + 8)


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
            RuntimeError("received 0 items of ancdata"),
            r"Too many open files \(received 0 items of ancdata\): each batch .* takes several; ulimit -n 65536, or .*num_workers=0",
        ),
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
    with pytest.raises(ConfigError) as caught, worker_errors_as_config_errors(2):
        raise error
    assert re.fullmatch(line, str(caught.value))


@pytest.mark.parametrize("error", [RuntimeError("a defect"), OSError(5, "Input/output error"), ValueError("No space left on device")])
def test_other_errors_are_not_changed(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, worker_errors_as_config_errors(2):
        raise error
    assert caught.value is error


FEW_DESCRIPTORS = """
import os, resource
from recipes.cluster.command import exit_code_of
from tests.recipes.data.numbers_data import Numbers, open_loader

def train():
    loader = open_loader(Numbers(4096), batch=1024, micro=2, num_workers=2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        loader.batches(0)
    finally:
        held = []
        try:
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            loader.close()  # without a free descriptor
        for number in held:
            os.close(number)
        for pid in loader.worker_pids:
            print(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] if os.path.exists(f"/proc/{pid}") else "gone")

if __name__ == "__main__":
    raise SystemExit(exit_code_of(train))
"""


def test_a_real_loader_that_runs_out_of_descriptors_is_one_line_and_exit_2_and_its_workers_are_gone(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(FEW_DESCRIPTORS)
    done = run_command([sys.executable, "-W", "ignore", tmp_path / "main.py"], ROOT, 60, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2, done.stderr
    assert re.search(r"Too many open files.*: each batch of a data worker process takes several; ulimit -n 65536, or", done.stderr)
    assert "Traceback" not in done.stderr and done.stdout.split() == ["gone"] * 2
