"""Real processes for tests: `run_distributed` (ranks on gloo) and `run_command` (a command with its whole process group).
Holds no assertions about the product.

Ranks are forked from a server that has imported torch, Megatron and DeepSpeed once (5 s), so that a test with two ranks starts in
a tenth of a second. The server never imports modules of this repository: each rank imports their current version.
"""

import contextlib
import ctypes
import faulthandler
import gc
import importlib.util
import inspect
import math
import multiprocessing as mp
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

PRELOAD = [
    *("torch", "torch.distributed", "megatron.core.parallel_state", "megatron.core.tensor_parallel", "deepspeed", "pytest"),
    *("matplotlib.pyplot", "matplotlib.backends.backend_agg"),  # every run ends with a picture
]
SERVER_ENV = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Variables that the preloaded libraries read while they are imported. OpenBLAS must not start threads before a fork."""
PR_SET_PDEATHSIG = 1
GRACE_SECONDS = 0.5
"""Time for the other ranks to report after the first failure. Often their error explains more, but mostly they hang in a collective."""


class RankFailure(AssertionError):
    """A rank raised, died or did not finish. The message has traceback and output of each of these ranks."""


@dataclass(frozen=True)
class _Job:
    """What the process of one rank needs, pickled together: the function to call and its arguments, environment, log file and time
    limit."""

    source: str
    module: str
    name: str
    args: bytes
    env: dict[str, str]
    log: Path
    timeout: float


@dataclass
class _Rank:
    """One rank as the parent sees it. `report` is ("ok", pickled value), ("error", traceback) or ("died", description)."""

    index: int
    process: ForkServerProcess
    pipe: Connection
    log: Path
    report: tuple[str, Any] | None = None
    reported_at: float = math.inf


def run_distributed(fn: Callable[..., Any], world_size: int, *args: Any, timeout: float = 120) -> list[Any]:
    """Call fn(*args) in `world_size` processes of one gloo group. Return the values in the order of ranks.

    `fn` is a module-level function. Arguments and return values are pickled (tensors by value). pytest does not rewrite asserts in `fn`:
    give them a message. RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT and DS_ACCELERATOR=cpu are set. The
    other variables are the caller's. No process is left behind in any case.
    Raises: RankFailure if a rank raises or dies, or after `timeout` seconds.
    """
    import torch.distributed as dist  # imported here, so that tests which only run commands do not import torch

    if "<locals>" in fn.__qualname__ or fn.__name__ == "<lambda>":
        raise ValueError(f"{fn.__qualname__} is a local function, which another process cannot load; move it to the top of its module")
    # Port 0 lets the kernel choose, and the store keeps the port taken, so that no other process can get it. DeepSpeed also names its
    # shared memory after the port, so two runs at the same time need different ones.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    payload = pickle.dumps(args)
    with tempfile.TemporaryDirectory(prefix="ranks_") as folder:
        ranks = []
        try:
            for index in range(world_size):
                env = {**os.environ, **rank_env(index, world_size, store.port)}
                log = Path(folder, f"rank{index}.log")
                job = _Job(inspect.getfile(fn), fn.__module__, fn.__qualname__, payload, env, log, timeout)
                ranks.append(_start(index, job))
            deadline = time.monotonic() + timeout  # the monotonic clock is the same in all processes
            for rank in ranks:
                with contextlib.suppress(OSError):  # the rank has died already; _collect reports that
                    rank.pipe.send(deadline)
            _collect(ranks, deadline)
            if any(rank.report is None or rank.report[0] != "ok" for rank in ranks):
                raise RankFailure(_describe(fn.__qualname__, ranks, timeout))
            values = [pickle.loads(rank.report[1]) for rank in ranks if rank.report]
            for rank in ranks:  # all have finished, so none still communicates with a rank that exits
                rank.pipe.send_bytes(b"leave")
                rank.process.join(GRACE_SECONDS)
        finally:
            for rank in ranks:
                _kill_rank(rank)
    return values


def run_command(
    args: Sequence[str | Path], cwd: str | Path, timeout: float, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command and return it with its stdout and stderr as text. `env` is added to the environment.

    When the command ends, all remaining processes of its process group are killed.
    Raises: subprocess.TimeoutExpired (with the output so far) after `timeout` seconds.
    """
    command = [str(arg) for arg in args]
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill_group(process.pid)
        stdout, stderr = process.communicate()
        sys.stdout.write(stdout)  # pytest shows both with the failure; the exception's message has neither
        sys.stderr.write(stderr)
        raise subprocess.TimeoutExpired(command, timeout, stdout, stderr) from None
    finally:
        _kill_group(process.pid)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def rank_env(index: int, world_size: int, port: int) -> dict[str, str]:
    """Return the environment variables that a launcher sets for rank `index` of `world_size` ranks. The parent process has opened the
    store for their rendezvous at `port`."""
    rank, size = str(index), str(world_size)
    env = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "DS_ACCELERATOR": "cpu"}
    # torchrun's variable for "the store exists already": env:// then connects on rank 0 as well, instead of opening a second store
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    if sys.platform == "linux":
        env["GLOO_SOCKET_IFNAME"] = "lo"  # for machines whose own name does not resolve
    return env


def _start(index: int, job: _Job) -> _Rank:
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    ours, theirs = context.Pipe()
    before = {key: os.environ.get(key) for key in SERVER_ENV}
    os.environ.update(SERVER_ENV)  # the first start() also starts the server, with the environment of this moment
    try:
        process = context.Process(target=_rank_main, args=(job, theirs), daemon=False)  # a daemon could have no data workers
        process.start()
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
    theirs.close()
    return _Rank(index, process, ours, job.log)


def _rank_main(job: _Job, pipe: Connection) -> None:
    gc.freeze()  # the server's imports are never garbage, and each collection would scan them all: a third of a second
    os.setsid()  # so that one signal reaches all processes that the rank starts (compilers, data workers)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the server may have been started by a data loader, which blocks signals in workers
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # if pytest is killed, its server ends, and so do the ranks
    log = open(job.log, "w", buffering=1)  # noqa: SIM115 - open until the process ends
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    sys.stdout = sys.stderr = log
    os.environ.clear()
    os.environ.update(job.env)
    # If a collective hangs, the stack is in the log before the parent's timeout.
    seconds_left = pipe.recv() - time.monotonic() - min(0.2 * job.timeout, 2)
    faulthandler.dump_traceback_later(max(0.01, seconds_left), file=log)
    report: tuple[str, Any]
    try:
        value = _load(job)(*_join_group(job))
        report = ("ok", pickle.dumps(value))
    except BaseException:  # noqa: BLE001 - SystemExit and KeyboardInterrupt of the code under test are findings too
        report = ("error", traceback.format_exc())
    pipe.send(report)
    if report[0] == "ok":
        pipe.recv_bytes()


def _join_group(job: _Job) -> tuple[Any, ...]:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    _load(job)  # before the arguments are unpickled: they may contain objects of its module
    store = dist.TCPStore(job.env["MASTER_ADDR"], int(job.env["MASTER_PORT"]), is_master=False)
    # A separate prefix, because code under test may destroy this group and open one from the environment, which must not find our keys.
    private = dist.PrefixStore("run_distributed", store)
    dist.init_process_group(
        "gloo", store=private, rank=int(job.env["RANK"]), world_size=int(job.env["WORLD_SIZE"]), timeout=timedelta(seconds=job.timeout)
    )
    dist.barrier()  # code under test may destroy the group at once, while another rank still connects to this one
    return pickle.loads(job.args)


def _load(job: _Job) -> Callable[..., Any]:
    """Return the function of a job, loaded from its file, since pytest may have changed sys.path. The module keeps its name, so that
    pickled values can be loaded in both processes."""
    if job.module not in sys.modules:
        spec = importlib.util.spec_from_file_location(job.module, job.source)
        assert spec is not None and spec.loader is not None, job.source
        module = importlib.util.module_from_spec(spec)
        sys.modules[job.module] = module
        spec.loader.exec_module(module)
    found: Any = sys.modules[job.module]
    for part in job.name.split("."):
        found = getattr(found, part)
    return found


def _collect(ranks: list[_Rank], deadline: float) -> None:
    """Read the results of the ranks until all have arrived, the deadline has passed, or GRACE_SECONDS after the first failure. Sets
    `report` of each rank."""
    while waiting := [rank for rank in ranks if rank.report is None]:
        ready = wait([rank.pipe for rank in waiting], max(0.0, deadline - time.monotonic()))
        if not ready:
            return
        for rank in (rank for rank in waiting if rank.pipe in ready):
            rank.report, rank.reported_at = _receive(rank), time.monotonic()
            if rank.report[0] != "ok":
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)


def _receive(rank: _Rank) -> tuple[str, Any]:
    try:
        return rank.pipe.recv()
    except EOFError:  # the process has ended without a report
        rank.process.join(GRACE_SECONDS)
        code = rank.process.exitcode
        name = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return "died", f"died without a report ({name})"


def _describe(name: str, ranks: list[_Rank], timeout: float) -> str:
    bad = [rank for rank in ranks if rank.report is None or rank.report[0] != "ok"]
    if not any(rank.report for rank in bad):
        lines = [f"{name}: not finished after {timeout:g} s on ranks {[rank.index for rank in bad]} of {len(ranks)}"]
    else:
        lines = [f"{name}: failed on ranks {[rank.index for rank in bad if rank.report]} of {len(ranks)}"]
    # the first to fail is the cause; the others see a closed connection
    for rank in sorted(bad, key=lambda r: r.reported_at):
        _kill_rank(rank)
        log = rank.log.read_text(errors="replace")[-4000:] if rank.log.exists() else ""
        text = rank.report[1] if rank.report else "still running when the others failed, or at the timeout"
        lines += [f"--- rank {rank.index}: {text.rstrip()}", *([f"--- output of rank {rank.index}:", log.rstrip()] if log else [])]
    return "\n".join(lines)


def _kill_rank(rank: _Rank) -> None:
    rank.pipe.close()
    if rank.process.pid is not None:
        _kill_group(rank.process.pid)
    rank.process.kill()  # in case it did not have its own process group yet
    rank.process.join(GRACE_SECONDS)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # all its processes may have ended
        os.killpg(pid, signal.SIGKILL)
