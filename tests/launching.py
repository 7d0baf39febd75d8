"""The launch scripts as a user meets them, for tests: exit code, stdout and stderr of a command, without its seconds of imports.

`launch` runs a script in a process forked from the server of tests/distributed.py, which has imported torch, Megatron and DeepSpeed
but nothing of this repository. What imports themselves print is seen only by run_command; tests/launch has such a test too.
"""

import contextlib
import ctypes
import multiprocessing as mp
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from recipes.config import Recipe, apply_overrides
from recipes.text import text_tiny
from tests.distributed import PR_SET_PDEATHSIG, PRELOAD, SERVER_ENV

ROOT = Path(__file__).parent.parent
PRETRAIN_TEXT = ROOT / "launch" / "pretrain_text.py"
PROBE = ROOT / "launch" / "probe.py"
PREPARE = ROOT / "launch" / "prepare.py"

TINY = {
    **{"model.num_layers": 1, "model.hidden_size": 16, "model.ffn_hidden_size": 32, "model.num_attention_heads": 2},
    **{"teacher.average_top_k_layers": 1, "frontend.vocab_size": 200, "data.sequence_length": 32, "frontend.max_positions": 32},
    **{"run.global_batch_size": 8, "run.max_steps": 2, "run.log_steps": 1, "optim.warmup_steps": 2},
}
"""text_tiny in milliseconds a step."""


def overrides(**changes: object) -> list[str]:
    """TINY as --set flags; a change is named with __ for the dot, and None takes one out."""
    return [part for assignment in _assignments(changes) for part in ("--set", assignment)]


def tiny_recipe(**changes: object) -> Recipe:
    """text_tiny with the same numbers, unchecked."""
    return apply_overrides(text_tiny(), _assignments(changes))


def _assignments(changes: Mapping[str, object]) -> list[str]:
    numbers = {**TINY, **{name.replace("__", "."): value for name, value in changes.items()}}
    return [f"{name}={value}" for name, value in numbers.items() if value is not None]


@dataclass
class Running:
    """A script that has been started; its output goes to files."""

    process: ForkServerProcess
    folder: tempfile.TemporaryDirectory
    args: list[str]
    _done: subprocess.CompletedProcess[str] | None = field(default=None)

    def read(self, stream: str) -> str:
        """stdout or stderr so far."""
        path = Path(self.folder.name, stream)
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_until(self, happened: Callable[[], bool], timeout: float = 60) -> None:
        """Poll until `happened`; fails when the process ends or the time is over before that."""
        deadline = time.monotonic() + timeout
        while not happened():
            if self.process.exitcode is not None or time.monotonic() > deadline:
                output = f"{self.read('stdout')}\n{self.read('stderr')}"
                raise AssertionError(f"exit code {self.process.exitcode}, not what was waited for:\n{output}")
            time.sleep(0.01)

    def wait(self, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """The finished command. Raises: subprocess.TimeoutExpired, and kills it."""
        self.process.join(timeout)
        code, output = self.process.exitcode, [self.read("stdout"), self.read("stderr")]
        self.stop()
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout, *output)
        return subprocess.CompletedProcess(self.args, code, *output)

    def stop(self) -> None:
        """Kill whatever is left of it."""
        if self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join(5)
        self.folder.cleanup()


def start(
    script: Path, args: Sequence[object], cwd: Path, *, env: Mapping[str, str] | None = None, file_limit: int | None = None
) -> Running:
    """Begin `python script args` in `cwd`. `file_limit`: bytes that a file of it may have, a full disk for tests."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    folder = tempfile.TemporaryDirectory(prefix="launch_")
    words = [str(script), *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    before = {key: os.environ.get(key) for key in SERVER_ENV}
    os.environ.update(SERVER_ENV)  # the first start() also starts the server, with the environment of this moment
    try:
        process = context.Process(target=_main, args=(words, str(cwd), environment, folder.name, file_limit))
        process.start()
    finally:
        for key, value in before.items():
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
    """The finished `python script args`."""
    return start(script, args, cwd, env=env, file_limit=file_limit).wait(timeout)


def _main(words: list[str], cwd: str, environment: dict[str, str], folder: str, file_limit: int | None) -> None:
    os.setsid()
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
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    runpy.run_path(words[0], run_name="__main__")
