"""launch/preflight.py as a job meets it: real processes, one of them odd, and the verdict that all of them share."""

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

from recipes.cluster.preflight.facts import Device
from tests.distributed import run_command
from tests.launching import ROOT, contents, launch, refused, start_ranks
from tests.nodes import Hooks, Measures, TellsArguments, die

PREFLIGHT = ROOT / "launch" / "preflight.py"
EVEN = Measures("measure", "matmul_tflops", [0.1])
"""Tests share their cores with each other, so the real rates of two processes may differ by any factor."""
Done = list["subprocess.CompletedProcess[str]"]


def run(tmp_path: Path, *args: object, size: int = 2, odd: Mapping[int, Callable[[], Any]] | None = None, **env: str) -> Done:
    """The command on `size` processes, of which those in `odd` measure something else than the machine says."""
    hooks: dict[int, Callable[[], Any]] = {**dict.fromkeys(range(size), EVEN), **(odd or {})}
    return start_ranks(PREFLIGHT, args, tmp_path, size, env=env, before=hooks).wait(60, patience=20)


def named(done: Done, code: int, complaint: str) -> None:
    """All end with `code`, rank 0 says `complaint` (a pattern) in one line, and the others say nothing."""
    assert [one.returncode for one in done] == [code] * len(done), [one.stderr for one in done]
    said = done[0].stderr if code else done[0].stdout
    assert re.search(complaint, said), said
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


def test_two_fit_nodes_are_a_table_and_a_word_and_leave_nothing(tmp_path: Path) -> None:
    done = run(tmp_path)
    named(done, 0, r"\nfit: 2 nodes\n$")
    header, first, second, all_reduce, _ = done[0].stdout.splitlines()
    assert header.startswith("node") and " rank 0 " in first and " rank 1 " in second
    assert re.fullmatch(r"all-reduce over 2 nodes: \S+ GB/s", all_reduce)
    assert contents(tmp_path) == {}


def test_everything_is_one_json_object(tmp_path: Path) -> None:
    done = run(tmp_path, "--json", "--local_rank=0")
    said = json.loads(done[0].stdout)
    assert len(said["nodes"]) == 2 and (said["errors"], said["warnings"]) == ([], [])
    assert all(facts["versions"]["torch"] and facts["free_bytes"]["run dir"] for facts in said["nodes"].values())


class HasTwelveCores:
    """Of which the processes of a node have equal shares."""

    def __call__(self) -> None:
        os.sched_getaffinity = lambda pid: set(range(12))  # type: ignore[assignment]


class TellsLevels:
    """How loud libraries may be, told as the reason why locks could not be looked for."""

    def __call__(self) -> None:
        from recipes.cluster.preflight import measure

        measure.stale_locks = self._instead  # type: ignore[assignment]

    def _instead(self, now: float) -> list[str]:
        age = abs(now - time.time())
        raise OSError(f"{os.environ['TORCH_CPP_LOG_LEVEL']} {logging.getLogger('torch.distributed').level} {age < 60}")


def test_what_the_launcher_and_the_user_have_said_reaches_every_measurement(tmp_path: Path) -> None:
    told = TellsArguments("measure", "own_devices"), TellsArguments("measure", "matmul_tflops"), TellsArguments("bandwidth", "bandwidth", 1)
    hooks = dict.fromkeys(range(3), Hooks((*told, HasTwelveCores(), TellsLevels())))
    place = {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    done = run(tmp_path, "--json", "--timeout", 45.5, "--run-dir", "not/yet", size=3, odd=hooks, **place)
    nodes = json.loads(done[0].stdout)["nodes"].values()
    assert [facts["errors"] for facts in nodes] == [
        {
            "devices": "(1, 2)",  # place on the node, processes there
            "locks of builds": "FATAL 40 True",
            "matmul": "([], 6)",  # no device, half of the cores
            "all-reduce": f"({rank}, 3, None, 45.5)",
        }
        for rank in range(3)
    ]
    assert contents(tmp_path) == {}


def test_tasks_of_a_step_find_rank_0_by_slurms_words_alone(tmp_path: Path) -> None:
    step = {
        **{"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"},
        **{"SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_STEP_NODELIST": "no-such-host.invalid,b"},
    }
    refused(launch(PREFLIGHT, ["--timeout", 0.2], tmp_path, env=step), r"cannot reach rank 0 at no-such-host\.invalid:20077 within 0\.2 s")


def test_a_process_that_dies_is_named_and_the_others_are_done_in_time(tmp_path: Path) -> None:
    started = time.monotonic()
    hooks = {0: EVEN, 1: EVEN, 2: die}
    done = start_ranks(PREFLIGHT, ["--timeout", 3], tmp_path, 3, before=hooks).wait(60, patience=20)
    assert time.monotonic() - started < 30
    named(done[:2], 2, r"^error: rank 2: did not come within 3 s; see what that node does, or leave it out \(sbatch --exclude\)\n$")


def test_one_that_hangs_in_a_measurement_is_named_with_it(tmp_path: Path) -> None:
    hooks: dict[int, Callable[[], Any]] = {0: EVEN, 1: EVEN, 2: Stuck()}
    ranks = start_ranks(PREFLIGHT, ["--timeout", 3], tmp_path, 3, before=hooks)
    try:
        done = [one.wait() for one in ranks.running[:2]]
    finally:
        ranks.stop()
    named(done, 2, r"^error: \S+ rank 2: came, and was not done with versions within 3 s; ")


class Stuck:
    """A node whose file system does not answer."""

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
def test_the_odd_one_of_two_is_named(case: str, tmp_path: Path) -> None:
    hook, complaint = ODD[case]
    named(run(tmp_path, odd={1: hook}), 2, complaint)


def test_a_slow_node_is_a_warning_and_an_error_where_that_is_asked_for(tmp_path: Path) -> None:
    slow = {1: Measures("measure", "matmul_tflops", [0.04])}
    complaint = (
        r"rank 1: matmul 2\.5x slower than the median, 0\.04 TFLOP/s; leave the node out \(sbatch --exclude\) and have it looked at\n$"
    )
    named(run(tmp_path, odd=slow), 0, rf"\nwarning: \S+ {complaint}")
    named(run(tmp_path, "--strict", odd=slow), 2, rf"^error: \S+ {complaint}")


class Hasty:
    """Files that will never appear are not waited for."""

    def __call__(self) -> None:
        from recipes.cluster.preflight import command as preflight
        from recipes.cluster.preflight import node

        node.APPEARS_SECONDS = preflight.APPEARS_SECONDS = 0.1


def test_a_run_dir_that_is_not_shared_is_named(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    elsewhere = Measures("measure", "folder_of", tmp_path / "elsewhere")
    hooks = {0: Hooks((EVEN, Hasty())), 1: Hooks((EVEN, Hasty(), elsewhere))}
    named(run(tmp_path, odd=hooks), 2, r"rank 1: the run dir is not the one that \S+ rank 0 sees; name a --run-dir on a file system")


def test_a_lock_that_a_killed_build_left_is_named_once(tmp_path: Path) -> None:
    lock = tmp_path / "cache" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (0, 0))
    done = run(tmp_path, TORCH_EXTENSIONS_DIR=str(tmp_path / "cache"))
    named(done, 2, rf"^error: \S+ rank 0, \S+ rank 1: a killed build left {lock}, and the next one waits for it for ever; rm {lock}\n$")


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--run-dir", "/proc/run"], r"run dir: No such file or directory; name a --run-dir that you may write to"),
        (["--run-dir", "/etc/passwd/run"], r"run dir: /etc/passwd is a file; name a --run-dir"),
        (["--timeout", "0"], r"--timeout 0: must be a number of seconds above 0"),
    ],
)
def test_what_one_node_can_tell_alone(args: list[str], complaint: str, tmp_path: Path) -> None:
    refused(launch(PREFLIGHT, args, tmp_path), complaint)


def place(rank: int, port: int, host: str = "127.0.0.1") -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": host, "MASTER_PORT": str(port)}


def test_rank_0_opens_the_port_itself_or_says_that_it_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        refused(launch(PREFLIGHT, [], tmp_path, env=place(0, taken.getsockname()[1])), r"port \d+ \(MASTER_PORT\) on \S+ .*it is in use")


def test_a_node_that_cannot_reach_rank_0_says_so_itself(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        done = launch(PREFLIGHT, ["--timeout", 1], tmp_path, env=place(1, unused.getsockname()[1]))
    refused(done, r"cannot reach rank 0 at 127\.0\.0\.1:\d+ within 1 s \(Connection refused\)")


def test_what_the_device_checks_of_a_node_found_is_judged(tmp_path: Path) -> None:
    for failures, code, said in (
        ({}, 0, "device checks of .*: 3 rows ok\n"),
        ({"check shards": "on the host"}, 2, "check shards: on the host; "),
    ):
        checks = Measures("device_checks", "run", {"summary": "3 rows ok", "failures": failures})
        named(run(tmp_path, "--full", odd={0: Hooks((EVEN, checks))}), code, said)
    done = run(
        tmp_path, "--full", "--json", odd={0: Hooks((EVEN, Measures("device_checks", "run", {"summary": "3 rows ok", "failures": {}})))}
    )
    told = json.loads(done[0].stdout)["nodes"].values()
    assert sorted(node["device_checks"] for node in told) == ["", "3 rows ok"]


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
