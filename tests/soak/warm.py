"""A process that has imported the libraries once and forks a pytest run for each request, so that a short run saves seconds.

`WarmPytest` is the client. The process (`python -m tests.soak.warm`) reads one request per line and answers each with a line. It has
imported nothing of this repository when it forks, so that a run uses the current files. The runs share one server of ranks (see
tests/distributed.py), which has imported nothing of it either.
"""

import contextlib
import importlib
import json
import multiprocessing as mp
import operator
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.distributed import PRELOAD, SERVER_ENV

LIBRARIES = (
    *("pytest", "torch", "torch.distributed.device_mesh", "numpy", "sentencepiece", "datasets", "soundfile", "hypothesis"),
    *("safetensors.torch", "PIL.Image", *PRELOAD),
)
ROOT = Path(__file__).parents[2]
HOUSE = ("tests", "model", "recipes", "benchmarks")
POLL_SECONDS = 0.02


class WarmPytest:
    """Runs pytest in `root`, a separate checkout, one run at a time."""

    def __init__(self, root: Path, libraries: tuple[str, ...] = LIBRARIES) -> None:
        """`libraries` are imported once. Without libraries, a run of tests with ranks starts its own server."""
        # Bytecode is not written, because bytecode of a file with the same second and size would hide a fault.
        env = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "tests.soak.warm", str(root), *libraries]
        self._process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, args: list[str], seconds: float) -> tuple[int | None, str]:
        """Return exit code (None if it is killed after `seconds`) and output of `pytest args`.

        Raises: RuntimeError if the process has ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either; handled below
            self._process.stdin.write(json.dumps([args, seconds]) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that forks pytest runs has ended ({self._process.wait()}); plant again with more memory")
        code, output = json.loads(answer)
        return code, output

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def _import(libraries: list[str]) -> None:
    kept = dict(os.environ)
    os.environ.update(SERVER_ENV)  # read while the libraries are imported, here and in the server
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    this = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")  # otherwise each rank would import this file
    os.environ["PYTHONWARNINGS"] = "ignore"  # warnings of libraries at their import, in the server
    first = context.Process(target=operator.add, args=(1, 1))  # starts the server
    first.start()
    first.join()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in libraries:
            importlib.import_module(name)
    sys.modules["__main__"] = this
    os.environ.clear()
    os.environ.update(kept)  # the tests set what they need
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]  # a fork calls it, but is not its parent


def _fork(run: Callable[[], int], output: Path) -> int:
    """Fork a child that calls `run` in its own process group and exits with its result. Return the child's pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setsid()
        descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
        for number in (1, 2):
            os.dup2(descriptor, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - until the end
        code = run()
    except BaseException:  # noqa: BLE001 - a fork must never return into its parent's code
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


def _pytest(root: str, args: list[str]) -> int:
    os.chdir(root)
    sys.path[:] = [root, *(entry for entry in sys.path if entry not in ("", root, str(ROOT)))]
    for name in [name for name in sys.modules if name.partition(".")[0] in HOUSE]:
        del sys.modules[name]
    importlib.invalidate_caches()
    sys.path_importer_cache.clear()
    import pytest

    return int(pytest.main(args))


def _answer(root: str, args: list[str], seconds: float) -> tuple[int | None, str]:
    with tempfile.NamedTemporaryFile(prefix="pytest_") as file:
        pid, deadline, code = _fork(lambda: _pytest(root, args), Path(file.name)), time.monotonic() + seconds, None
        caller = os.getppid()
        while code is None and time.monotonic() < deadline and os.getppid() == caller:  # stop if the caller was killed
            done, status = os.waitpid(pid, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if done else None
            time.sleep(POLL_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # with all processes that it has started
        if code is None:
            os.waitpid(pid, 0)
        return code, Path(file.name).read_text(errors="replace")


def main() -> int:
    """Answer requests until the caller has ended."""
    answers: Any = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not go to the answers
    root, *libraries = sys.argv[1:]
    if libraries:
        _import(libraries)
    for line in sys.stdin:
        answers.write(json.dumps(_answer(root, *json.loads(line))) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
