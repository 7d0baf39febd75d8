"""Run the launch scripts like a user, for tests: exit code, stdout and stderr of a command, without the seconds for its imports.

`launch` runs a script in a process forked from the server of tests/distributed.py, which has imported torch, Megatron and DeepSpeed
but nothing of this repository. Output of the imports themselves can only be tested with run_command; tests/launch has such a test too.
"""

import contextlib
import ctypes
import gc
import json
import multiprocessing as mp
import os
import re
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from recipes.catalog import RECIPES, default_recipe
from recipes.config import Recipe
from recipes.settings import apply_overrides
from tests.distributed import PR_SET_PDEATHSIG, PRELOAD, SERVER_ENV, rank_env

ROOT = Path(__file__).parent.parent
PRETRAIN = {modality: ROOT / "launch" / f"pretrain_{modality}.py" for modality in RECIPES}
PRETRAIN_TEXT = PRETRAIN["text"]
BASE_ENV = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
"""Environment of every script. Offline, because without a network the hub's client retries for half a minute."""
PROBE = ROOT / "launch" / "probe.py"
PREPARE = ROOT / "launch" / "prepare.py"

SMALL = {
    **{"model.num_layers": 1, "model.hidden_size": 16, "model.ffn_hidden_size": 32, "model.num_attention_heads": 2},
    **{"teacher.average_top_k_layers": 1, "optim.warmup_steps": 2},
    **{"run.global_batch_size": 8, "run.max_steps": 2, "run.log_steps": 1},
}
TINY: dict[str, dict[str, object]] = {
    "text": SMALL | {"frontend.vocab_size": 200, "data.sequence_length": 32, "frontend.max_positions": 32},
    "speech": SMALL
    | {"frontend.conv_dim": 8, "frontend.conv_kernels": "10,3", "frontend.conv_strides": "5,2", "frontend.pos_conv_depth": 2}
    | {"frontend.pos_conv_groups": 2, "mask.length": 5, "data.min_seconds": 0.025, "data.max_seconds": 0.1, "data.group_size": 4}
    | {"data.num_workers": 0},
    "vision": SMALL
    | {
        "frontend.image_size": 32,
        "frontend.patch_size": 8,
        "mask.num_patches": 9,
        "mask.min_block": 2,
        "mask.max_block": 16,
        "data.num_workers": 0,
    },
}
"""Settings with which each modality's tiny recipe takes milliseconds per step on the data of tests/made_up.py. No worker processes,
because they take seconds to start."""


def overrides(modality: str = "text", **changes: object) -> list[str]:
    """Return TINY as --set flags. A change is named with __ instead of the dot; the value None removes a setting."""
    return [part for assignment in _assignments(modality, changes) for part in ("--set", assignment)]


def tiny_recipe(modality: str = "text", **changes: object) -> Recipe:
    """Return the modality's tiny recipe with the same settings, unchecked."""
    return apply_overrides(RECIPES[modality][default_recipe(modality)](), _assignments(modality, changes))


def _assignments(modality: str, changes: Mapping[str, object]) -> list[str]:
    numbers = {**TINY[modality], **{name.replace("__", "."): value for name, value in changes.items()}}
    return [f"{name}={value}" for name, value in numbers.items() if value is not None]


@dataclass
class Running:
    """A started script. Its output goes to files."""

    process: ForkServerProcess
    folder: tempfile.TemporaryDirectory
    args: list[str]
    _done: subprocess.CompletedProcess[str] | None = field(default=None)

    def read(self, stream: str) -> str:
        """Return stdout or stderr so far."""
        path = Path(self.folder.name, stream)
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_until(self, happened: Callable[[], bool], timeout: float = 60) -> None:
        """Poll until `happened()`. Fails if the process ends or `timeout` passes first."""
        deadline = time.monotonic() + timeout
        while not happened():
            if self.process.exitcode is not None or time.monotonic() > deadline:
                output = f"{self.read('stdout')}\n{self.read('stderr')}"
                raise AssertionError(f"exit code {self.process.exitcode} before the expected event:\n{output}")
            time.sleep(0.01)

    def wait(self, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Wait and return the finished command. After `timeout` it is killed. Raises: subprocess.TimeoutExpired."""
        self.process.join(timeout)
        code, output = self.process.exitcode, [self.read("stdout"), self.read("stderr")]
        self.stop()
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout, *output)
        return subprocess.CompletedProcess(self.args, code, *output)

    def stop(self) -> None:
        """Kill the remaining processes of the script."""
        if self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join(5)
        self.folder.cleanup()


def start(
    script: Path,
    args: Sequence[object],
    cwd: Path,
    *,
    env: Mapping[str, str] | None = None,
    file_limit: int | None = None,
    before: Callable[[], Any] | None = None,
) -> Running:
    """Start `python script args` in `cwd`. `file_limit`: maximum bytes of a file that it writes, which acts like a full disk. `before` is
    called in the new process ahead of the script. It is pickled."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    folder = tempfile.TemporaryDirectory(prefix="launch_")
    words = [str(script), *map(str, args)]
    environment = {**os.environ, **BASE_ENV, **(env or {})}
    variables = {key: os.environ.get(key) for key in SERVER_ENV}
    os.environ.update(SERVER_ENV)  # the first start() also starts the server, with the environment of this moment
    try:
        process = context.Process(target=_main, args=(words, str(cwd), environment, folder.name, file_limit, before))
        process.start()
    finally:
        for key, value in variables.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
    return Running(process, folder, words)


def launch(
    script: Path,
    args: Sequence[object],
    cwd: Path,
    *,
    env: Mapping[str, str] | None = None,
    file_limit: int | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Run `python script args` and return the finished command."""
    return start(script, args, cwd, env=env, file_limit=file_limit).wait(timeout)


@dataclass
class Ranks:
    """A script that runs on several ranks. If one fails, the others are ended, as the deepspeed launcher does."""

    running: list[Running]
    store: Any
    """The store for the rendezvous of the ranks. It is in this process, so that its port stays taken."""

    def kill(self, rank: int | None = None) -> None:
        """Kill one rank, or all, with SIGKILL."""
        for one in self.running if rank is None else [self.running[rank]]:
            one.process.kill()

    def wait(self, timeout: float = 120, patience: float = 5) -> list[subprocess.CompletedProcess[str]]:
        """Wait and return the finished commands in the order of ranks. When one has failed, the others have `patience` seconds to end by
        themselves, and are then killed. If none has failed at `timeout`, all are killed. Raises: subprocess.TimeoutExpired."""
        deadline, hangs = time.monotonic() + timeout, True
        while waiting := [one.process for one in self.running if one.process.exitcode is None]:
            if not wait([process.sentinel for process in waiting], max(0.0, deadline - time.monotonic())):
                break
            if hangs and any(one.process.exitcode for one in self.running):
                deadline, hangs = min(deadline, time.monotonic() + patience), False
        for process in waiting if not hangs else ():
            process.kill()
        try:
            return [one.wait(0 if hangs else 5) for one in self.running]
        finally:
            self.stop()

    def stop(self) -> None:
        """Kill the remaining processes of all ranks."""
        for one in self.running:
            one.stop()


def start_ranks(
    script: Path,
    args: Sequence[object],
    cwd: Path,
    size: int,
    *,
    env: Mapping[str, str] | None = None,
    file_limit: int | None = None,
    before: Mapping[int, Callable[[], Any]] | None = None,
) -> Ranks:
    """Start the script on `size` ranks of this machine, on gloo. A single rank gets no launcher's variables. `before`: see start(), by
    rank."""
    from torch.distributed import TCPStore  # imported here, so that tests which start one process do not import torch

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) if size > 1 else None
    ranks = Ranks([], store)
    for rank in range(size):
        place = rank_env(rank, size, store.port) if store else {}
        hook = (before or {}).get(rank)
        ranks.running.append(start(script, args, cwd, env={**place, **(env or {})}, file_limit=file_limit, before=hook))
    return ranks


def _main(
    words: list[str], cwd: str, environment: dict[str, str], folder: str, file_limit: int | None, before: Callable[[], Any] | None
) -> None:
    gc.freeze()  # see tests/distributed.py
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the server may have been started by a data loader, which blocks signals in workers
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - until the end
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    if file_limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if before:
        before()
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    runpy.run_path(words[0], run_name="__main__")


def refused(done: subprocess.CompletedProcess[str], complaint: str) -> None:
    """Assert that the command ended with exit code 2 and one line on stderr that matches the pattern `complaint`."""
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"error: .*\n", done.stderr), f"one line, not: {done.stderr}"
    assert re.search(complaint, done.stderr.rstrip()), done.stderr


def write_files(folder: Path, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Write these files and return the folder's contents."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Return path -> bytes of everything below a folder. Folders have b""."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a file with one JSON object per line."""
    return [json.loads(line) for line in path.read_text().splitlines()]
