"""Unexpected errors, lost worker processes and full shared memory in whole runs: all processes end within seconds, and none is left.
tests/soak/injected.py tries every place of a run."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.distributed import run_command
from tests.launching import PRETRAIN, ROOT, overrides, read_jsonl, start
from tests.made_up import write_pictures
from tests.processes import gone, processes_of
from tests.soak.injected import LIMIT_SECONDS, PLACES, RAISED, inject

PLACES_TRIED = ("start: saver", "loop: forward", "worker: sample", "evaluation: objective", "save: file")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    return write_pictures(tmp_path / "pictures")


def args_of(data: Path, run: Path, **changes: object) -> list[object]:
    """Return the flags of a run with two worker processes."""
    return ["--data", data, "--run-dir", run, *overrides("vision", **{"data__num_workers": 2, **changes})]


def test_a_defect_in_a_run_with_workers_is_a_traceback_and_the_end_of_all_its_processes(pictures: Path, tmp_path: Path) -> None:
    run, mark = tmp_path / "run", tmp_path / RAISED
    running = start(PRETRAIN["vision"], args_of(pictures, run), tmp_path, before=functools.partial(inject, PLACES["loop: forward"], mark))
    done, group = running.process, running.process.pid or 0
    done.join(60)
    assert done.exitcode == 1 and gone(group) and time.time() - mark.stat().st_mtime < LIMIT_SECONDS
    assert "RuntimeError: injected: CUDA out of memory" in running.read("stderr")
    assert [event["event"] for event in read_jsonl(run / "events.jsonl")] == ["start", "error"]
    assert json.loads((run / "watch" / "rank_00000.json").read_text())["ended"]["code"] == 1
    running.stop()


def workers_of(group: int) -> list[int]:
    """Return the processes of the group that were forked from its fork server."""
    stats = {int(path.parent.name): path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat")}
    own = {pid: int(fields[1]) for pid, fields in stats.items() if int(fields[2]) == group}
    servers = {pid for pid, parent in own.items() if parent == group and "forkserver" in Path(f"/proc/{pid}/cmdline").read_text()}
    return [pid for pid, parent in own.items() if parent in servers]


def test_a_worker_that_is_killed_ends_the_run_with_one_line(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    running = start(
        PRETRAIN["vision"], args_of(pictures, run, run__max_steps=100_000, optim__schedule_steps=100_000, run__log_steps=1), tmp_path
    )
    running.wait_until(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") >= 3)
    group = running.process.pid or 0
    for pid in workers_of(group):
        os.kill(pid, signal.SIGKILL)
    done = running.wait(LIMIT_SECONDS)
    line = "error: a data worker process (data.num_workers=2) was killed, probably for lack of memory; give the job more memory, or read "
    assert (done.returncode, done.stderr) == (2, line + "without worker processes: --set data.num_workers=0\n") and gone(group)
    assert "hang" not in [event["event"] for event in read_jsonl(run / "events.jsonl")]


@pytest.mark.slow
def test_one_place_of_each_kind_on_one_and_two_ranks(tmp_path: Path) -> None:
    """As a main program, with Python's own exit, and without a launcher that would end the other ranks."""
    args = ["--places", *PLACES_TRIED, "--ranks", "1", "2", "--workers", "2", "--out", tmp_path / "result.json"]
    done = run_command([sys.executable, "-m", "tests.soak.injected", *args], ROOT, 280)
    assert done.returncode == 0, done.stdout
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["count"] == 2 * len(PLACES_TRIED) and result["worst_seconds"] <= LIMIT_SECONDS


MAIN = """
import os, sys
from pathlib import Path
from recipes.catalog import RECIPES
from recipes.train import cli
from tests.soak.injected import PLACES, inject

if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        inject(PLACES["loop: forward"], Path(sys.argv.pop(1)))
    else:
        sys.argv.pop(1)
    sys.exit(cli.pretrain_main("", RECIPES["vision"], "vision_tiny"))
"""


@pytest.mark.slow
def test_under_torchrun_a_defect_of_one_rank_ends_the_job(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(MAIN)
    mark, command = tmp_path / RAISED, [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*command, tmp_path / "main.py", mark, *args_of(pictures, tmp_path / "run")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(list(map(str, words)), cwd=tmp_path, env=env, stdout=file, stderr=file, start_new_session=True)
        try:
            assert process.wait(150) == 1, log.read_text()
            assert time.time() - mark.stat().st_mtime < LIMIT_SECONDS, log.read_text()
            assert gone(process.pid), processes_of(process.pid)
        finally:
            if processes_of(process.pid):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_containers_small_shared_memory_is_one_line_with_the_remedy(pictures: Path, tmp_path: Path) -> None:
    """Like docker's small /dev/shm; 4 MB here, since pictures are small. As root, in a mount namespace of its own."""
    small = ["unshare", "-m", "bash", "-c", 'mount -t tmpfs -o size=4m tmpfs /dev/shm && exec "$@"', "_"]
    if os.getuid() or run_command([*small, "true"], tmp_path, 10).returncode:
        pytest.skip("needs root and unshare")
    size = {"frontend__image_size": 224, "frontend__patch_size": 16, "mask__num_patches": 120, "run__max_steps": 20}
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = run_command([*small, sys.executable, PRETRAIN["vision"], *args_of(pictures, tmp_path / "run", **size)], ROOT, 100, env=env)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "/dev/shm" in lines[0] and "--shm-size" in lines[0] and "--set data.num_workers=0" in lines[0], done.stderr
    assert "Traceback" not in done.stderr
