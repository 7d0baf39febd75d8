"""launch/preflight.py as in a job: real processes, one of which is broken or slow, and the exit code that all of them share."""

import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from recipes.cluster.preflight.node_report import Device
from tests.distributed import run_command
from tests.launching import ROOT, contents, launch, refused, start_ranks
from tests.nodes import Hooks, Measures, ShowsArguments, die

PREFLIGHT = ROOT / "launch" / "preflight.py"
EVEN = Measures("measure", "matmul_tflops", [0.1])
"""The real rates of two processes may differ by any factor, since tests that run at the same time share the cores."""
Done = list["subprocess.CompletedProcess[str]"]


def run(tmp_path: Path, *args: object, size: int = 2, odd: Mapping[int, Callable[[], Any]] | None = None, **env: str) -> Done:
    """Run the command on `size` processes. Those in `odd` have a hook that replaces a measurement."""
    hooks: dict[int, Callable[[], Any]] = {**dict.fromkeys(range(size), EVEN), **(odd or {})}
    return start_ranks(PREFLIGHT, args, tmp_path, size, env=env, before=hooks).wait(60, patience=20)


def check_output(done: Done, code: int, pattern: str) -> None:
    """Assert that all exit with `code`, rank 0 prints a line that matches `pattern`, and the others print nothing."""
    assert [one.returncode for one in done] == [code] * len(done), [one.stderr for one in done]
    printed = done[0].stderr if code else done[0].stdout
    assert re.search(pattern, printed), printed
    assert re.fullmatch(r"error: .*\n", done[0].stderr) if code else not done[0].stderr, done[0].stderr
    assert all(one.stdout + one.stderr == "" for one in done[1:]), [one.stdout + one.stderr for one in done[1:]]


def test_help_has_an_example_and_is_torch_free(tmp_path: Path) -> None:
    program = f"import runpy, sys; sys.argv[1:] = ['--help']\ntry: runpy.run_path({str(PREFLIGHT)!r}, run_name='__main__')\n"
    program += "finally: print({'torch', 'deepspeed', 'megatron', 'numpy'} & set(sys.modules), file=sys.stderr)"
    done = run_command([sys.executable, "-c", program], tmp_path, 30)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert "srun --ntasks-per-node=1 python launch/preflight.py --run-dir runs/wiki" in done.stdout


def test_it_never_imports_deepspeed(tmp_path: Path) -> None:
    program = f"import runpy, sys; sys.argv = [{str(PREFLIGHT)!r}]\ntry: runpy.run_path({str(PREFLIGHT)!r}, run_name='__main__')\n"
    program += "finally: print({'deepspeed', 'megatron', 'setuptools'} & set(sys.modules), file=sys.stderr)"
    done = run_command([sys.executable, "-c", program], tmp_path, 60)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert re.search(r"^fit: 1 node$|^warning: ", done.stdout, re.MULTILINE)


def test_two_fit_nodes_print_a_table_and_leave_no_file(tmp_path: Path) -> None:
    done = run(tmp_path)
    check_output(done, 0, r"\nfit: 2 nodes\n$")
    header, first, second, all_reduce, _ = done[0].stdout.splitlines()
    assert header.startswith("node") and " rank 0 " in first and " rank 1 " in second
    assert re.fullmatch(r"all-reduce over 2 nodes: \S+ GB/s", all_reduce)
    assert contents(tmp_path) == {}


def test_json_prints_one_object(tmp_path: Path) -> None:
    done = run(tmp_path, "--json", "--local_rank=0")
    printed = json.loads(done[0].stdout)
    assert len(printed["nodes"]) == 2 and (printed["errors"], printed["warnings"]) == ([], [])
    assert all(report["versions"]["torch"] and report["free_bytes"]["run dir"] for report in printed["nodes"].values())


class HasTwelveCores:
    """A hook: the node has twelve cores, which its processes share equally."""

    def __call__(self) -> None:
        os.sched_getaffinity = lambda pid: set(range(12))  # type: ignore[assignment]


class ShowsLogLevels:
    """A hook: the search for stale locks fails with the log levels of the libraries as its reason."""

    def __call__(self) -> None:
        from recipes.cluster.preflight import measure

        measure.stale_locks = self._instead  # type: ignore[assignment]

    def _instead(self, now: float) -> list[str]:
        age = abs(now - time.time())
        raise OSError(f"{os.environ['TORCH_CPP_LOG_LEVEL']} {logging.getLogger('torch.distributed').level} {age < 60}")


def test_settings_of_the_launcher_and_the_user_reach_every_measurement(tmp_path: Path) -> None:
    arguments = (
        ShowsArguments("measure", "own_devices"),
        ShowsArguments("measure", "matmul_tflops"),
        ShowsArguments("bandwidth", "bandwidth", 1),
    )
    hooks = dict.fromkeys(range(3), Hooks((*arguments, HasTwelveCores(), ShowsLogLevels())))
    place = {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    done = run(tmp_path, "--json", "--timeout", 45.5, "--run-dir", "not/yet", size=3, odd=hooks, **place)
    nodes = json.loads(done[0].stdout)["nodes"].values()
    assert [report["errors"] for report in nodes] == [
        {
            "devices": "(1, 2)",  # local rank, local size
            "locks of builds": "FATAL 40 True",
            "matmul": "([], 6)",  # no device, half of the cores
            "all-reduce": f"({rank}, 3, None, 45.5)",
        }
        for rank in range(3)
    ]
    assert contents(tmp_path) == {}


def test_tasks_of_a_step_find_rank_0_by_slurms_variables_alone(tmp_path: Path) -> None:
    step = {
        **{"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"},
        **{"SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_STEP_NODELIST": "no-such-host.invalid,b"},
    }
    refused(launch(PREFLIGHT, ["--timeout", 0.2], tmp_path, env=step), r"cannot reach rank 0 at no-such-host\.invalid:20077 within 0\.2 s")


def test_a_process_that_dies_is_named_and_the_others_end_in_time(tmp_path: Path) -> None:
    started = time.monotonic()
    hooks = {0: EVEN, 1: EVEN, 2: die}
    done = start_ranks(PREFLIGHT, ["--timeout", 3], tmp_path, 3, before=hooks).wait(60, patience=20)
    assert time.monotonic() - started < 30
    check_output(done[:2], 2, r"^error: rank 2: did not join within 3 s; check that node, or leave it out \(sbatch --exclude\)\n$")


def test_a_node_that_hangs_is_named_with_the_measurement(tmp_path: Path) -> None:
    hooks: dict[int, Callable[[], Any]] = {0: EVEN, 1: EVEN, 2: Stuck()}
    ranks = start_ranks(PREFLIGHT, ["--timeout", 3], tmp_path, 3, before=hooks)
    try:
        done = [one.wait() for one in ranks.running[:2]]
    finally:
        ranks.stop()
    check_output(done, 2, r"^error: \S+ rank 2: joined, but did not finish versions within 3 s; ")


class Stuck:
    """A hook: the file system of the node does not answer."""

    def __call__(self) -> None:
        from recipes.cluster.preflight import measure

        measure.versions = lambda: time.sleep(600)  # type: ignore[assignment,return-value]


ODD: dict[str, tuple[Measures, str]] = {
    "versions": (Measures("measure", "versions", {"torch": "2.11.0"}), r"rank 1: torch 2\.11\.0, on 1 of 2 nodes 2\.\d+"),
    "code": (Measures("measure", "checkout_digest", "f" * 64), r"rank 1: checkout f{12}, on 1 of 2 nodes [0-9a-f]{12}; let all nodes"),
    "devices": (Measures("measure", "idle_devices", [Device("H100", None, 0.99)]), r"rank 1: devices H100, on 1 of 2 nodes cpu"),
    "matmul": (Measures("measure", "matmul_tflops", RuntimeError("ECC error\nstack")), r"rank 1: matmul: ECC error; leave the node out"),
    "disk": (
        Measures("measure", "disk_seconds", OSError(28, "No space left on device")),
        r"rank 1: run dir: No space left on device; name",
    ),
    "room": (Measures("measure", "free_bytes", {"run dir": 2**20}), r"rank 1: 0\.00 GiB free on the run dir's disk, at least 1 needed"),
}


@pytest.mark.parametrize("case", ODD)
def test_the_node_that_differs_is_named(case: str, tmp_path: Path) -> None:
    hook, pattern = ODD[case]
    check_output(run(tmp_path, odd={1: hook}), 2, pattern)


def test_a_slow_node_is_a_warning_or_with_strict_an_error(tmp_path: Path) -> None:
    slow = {1: Measures("measure", "matmul_tflops", [0.04])}
    pattern = (
        r"rank 1: matmul 2\.5x slower than the median, 0\.04 TFLOP/s; leave the node out \(sbatch --exclude\) and have it looked at\n$"
    )
    check_output(run(tmp_path, odd=slow), 0, rf"\nwarning: \S+ {pattern}")
    check_output(run(tmp_path, "--strict", odd=slow), 2, rf"^error: \S+ {pattern}")


class ShortWaits:
    """A hook: the wait for files of other nodes is short."""

    def __call__(self) -> None:
        from recipes.cluster.preflight import command as preflight
        from recipes.cluster.preflight import node

        node.APPEARS_SECONDS = preflight.APPEARS_SECONDS = 0.1


def test_a_run_dir_that_is_not_shared_is_named(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    elsewhere = Measures("measure", "existing_folder", tmp_path / "elsewhere")
    hooks = {0: Hooks((EVEN, ShortWaits())), 1: Hooks((EVEN, ShortWaits(), elsewhere))}
    check_output(run(tmp_path, odd=hooks), 2, r"rank 1: the run dir is not the one that \S+ rank 0 sees; name a --run-dir on a file system")


def test_the_lock_of_a_killed_build_is_reported_in_one_line(tmp_path: Path) -> None:
    lock = tmp_path / "cache" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (0, 0))
    done = run(tmp_path, TORCH_EXTENSIONS_DIR=str(tmp_path / "cache"))
    check_output(
        done, 2, rf"^error: \S+ rank 0, \S+ rank 1: a killed build left {lock}, and the next build waits for it forever; rm {lock}\n$"
    )


@pytest.mark.parametrize(
    ("args", "pattern"),
    [
        (["--run-dir", "/proc/run"], r"run dir: No such file or directory; name a --run-dir that you may write to"),
        (["--run-dir", "/etc/passwd/run"], r"run dir: /etc/passwd is a file; name a --run-dir"),
        (["--timeout", "0"], r"--timeout 0: must be a number of seconds above 0"),
    ],
)
def test_errors_of_a_single_node(args: list[str], pattern: str, tmp_path: Path) -> None:
    refused(launch(PREFLIGHT, args, tmp_path), pattern)


def place(rank: int, port: int, host: str = "127.0.0.1") -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": host, "MASTER_PORT": str(port)}


def test_a_port_in_use_is_an_error_of_rank_0(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        refused(launch(PREFLIGHT, [], tmp_path, env=place(0, taken.getsockname()[1])), r"port \d+ \(MASTER_PORT\) on \S+ .*it is in use")


def test_a_node_that_cannot_reach_rank_0_prints_the_error_itself(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        done = launch(PREFLIGHT, ["--timeout", 1], tmp_path, env=place(1, unused.getsockname()[1]))
    refused(done, r"cannot reach rank 0 at 127\.0\.0\.1:\d+ within 1 s \(Connection refused\)")


def test_a_failed_device_check_is_an_error(tmp_path: Path) -> None:
    for failures, code, pattern in (
        ({}, 0, "device checks of .*: 3 rows ok\n"),
        ({"check shards": "on the host"}, 2, "check shards: on the host; "),
    ):
        checks = Measures("device_checks", "run", {"summary": "3 rows ok", "failures": failures})
        check_output(run(tmp_path, "--full", odd={0: Hooks((EVEN, checks))}), code, pattern)
    done = run(
        tmp_path, "--full", "--json", odd={0: Hooks((EVEN, Measures("device_checks", "run", {"summary": "3 rows ok", "failures": {}})))}
    )
    reports = json.loads(done[0].stdout)["nodes"].values()
    assert sorted(report["device_checks"] for report in reports) == ["", "3 rows ok"]


NAN_ATTENTION = """
import torch.nn.functional as F
attention = F.scaled_dot_product_attention
F.scaled_dot_product_attention = lambda *args, **options: attention(*args, **options) * float("nan")
"""


@pytest.mark.slow
def test_full_trains_on_the_node_and_names_the_check_that_fails_there(tmp_path: Path) -> None:
    done = run_command([sys.executable, str(PREFLIGHT), "--full"], tmp_path, 200)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    (tmp_path / "sitecustomize.py").write_text(NAN_ATTENTION)
    done = run_command([sys.executable, str(PREFLIGHT), "--full"], tmp_path, 200, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2 and re.fullmatch(r"error: .*\n", done.stderr), done.stderr
    assert "check attention: text student" in done.stderr and "check train text bf16: " in done.stderr, done.stderr
    assert not list(tmp_path.glob(".preflight*"))
