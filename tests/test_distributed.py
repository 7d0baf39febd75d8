"""Tests of the helper that the other distributed tests stand on: results, failures that surface, and nothing left running."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.distributed import RankFailure, run_command, run_distributed


@dataclass(frozen=True)
class Answer:
    """A class of this module: must survive the way into the ranks and back."""

    rank: int
    total: torch.Tensor


def sum_over_ranks(start: Answer) -> Answer:
    total = start.total + dist.get_rank()
    dist.all_reduce(total)
    return Answer(dist.get_rank(), total)


def environment() -> dict[str, str | int]:
    keys = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR", "FROM_THE_TEST"]
    return {**{key: os.environ[key] for key in keys}, "threads": torch.get_num_threads()}


def second_group() -> int:
    dist.destroy_process_group()
    dist.init_process_group("gloo", init_method="env://")
    one = torch.ones(1)
    dist.all_reduce(one)
    return int(one)


def fail_on_rank_1() -> None:
    sys.stdout.write(f"words of rank {dist.get_rank()}\n")
    if dist.get_rank() == 1:
        raise ValueError("the reason on rank 1")
    dist.barrier()


def die_on_rank_1() -> None:
    if dist.get_rank() == 1:
        os._exit(7)
    dist.barrier()


def hang_on_rank_1(pid_folder: Path) -> None:
    child = subprocess.Popen(["sleep", "600"])
    Path(pid_folder, f"{dist.get_rank()}.pids").write_text(f"{os.getpid()} {child.pid}")
    if dist.get_rank() == 1:
        wait_for_ever()
    dist.barrier()


def wait_for_ever() -> None:
    while True:
        time.sleep(1)


def deepspeed_step() -> float:
    import deepspeed

    engine, *_ = deepspeed.initialize(
        model=torch.nn.Linear(4, 1),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "optimizer": {"type": "AdamW", "params": {"lr": 0.1, "torch_adam": True}},
            "zero_optimization": {"stage": 3},
        },
    )
    loss = engine(torch.full((1, 4), 1.0 + dist.get_rank())).sum()
    engine.backward(loss)
    engine.step()
    return float(engine.get_global_grad_norm())


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 5
    while alive := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_returns_the_values_of_all_ranks_in_order() -> None:
    answers = run_distributed(sum_over_ranks, 3, Answer(-1, torch.tensor([10.0])))
    assert [answer.rank for answer in answers] == [0, 1, 2]
    assert all(isinstance(answer, Answer) and answer.total.item() == 33 for answer in answers)


def test_ranks_find_the_launcher_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_THE_TEST", "yes")
    first, second = run_distributed(environment, 2)
    assert [first["RANK"], second["RANK"]] == ["0", "1"] == [first["LOCAL_RANK"], second["LOCAL_RANK"]]
    assert first["WORLD_SIZE"] == first["LOCAL_WORLD_SIZE"] == "2"
    assert first["MASTER_PORT"] == second["MASTER_PORT"]
    assert (first["DS_ACCELERATOR"], first["FROM_THE_TEST"], first["threads"]) == ("cpu", "yes", 1)
    assert "RANK" not in os.environ and "MASTER_PORT" not in os.environ


def test_a_rank_may_open_another_group_from_the_environment() -> None:
    assert run_distributed(second_group, 2) == [2, 2]


def test_functions_of_a_module_outside_any_path_are_loaded(tmp_path: Path) -> None:
    """As pytest's importlib mode leaves them: a module object whose name no import statement would find."""
    import importlib.util

    path = tmp_path / "elsewhere.py"
    path.write_text("import torch.distributed as dist\ndef rank_times(factor):\n    return dist.get_rank() * factor\n")
    spec = importlib.util.spec_from_file_location("no.such.package.elsewhere", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert run_distributed(module.rank_times, 2, 5) == [0, 5]


def test_a_local_function_is_refused() -> None:
    with pytest.raises(ValueError, match="move it to the top of its module"):
        run_distributed(lambda: None, 2)


def test_the_traceback_and_output_of_the_failing_rank_surface() -> None:
    started = time.monotonic()
    with pytest.raises(RankFailure) as failure:
        run_distributed(fail_on_rank_1, 2, timeout=100)
    message = str(failure.value)
    assert "ValueError: the reason on rank 1" in message and "in fail_on_rank_1" in message
    assert "words of rank 1" in message
    assert message.index("--- rank 1: Traceback") < message.find("--- rank 0:"), "the cause comes before what followed from it"
    assert time.monotonic() - started < 50, "rank 0 was waited for, which hangs in a barrier"


def test_a_rank_that_dies_is_named() -> None:
    with pytest.raises(RankFailure, match=r"rank 1: died without a report \(exit code 7\)"):
        run_distributed(die_on_rank_1, 2)


def test_the_timeout_kills_everyone_and_shows_where_they_hung(tmp_path: Path) -> None:
    with pytest.raises(RankFailure, match=r"not finished after 4 s on ranks \[0, 1\] of 2") as failure:
        run_distributed(hang_on_rank_1, 2, tmp_path, timeout=4)
    assert "in wait_for_ever" in str(failure.value), "the stack of the hung rank is missing"
    pids = [int(pid) for file in tmp_path.glob("*.pids") for pid in file.read_text().split()]
    assert len(pids) == 4
    assert_gone(pids)


@pytest.mark.slow
def test_deepspeed_runs_inside_the_ranks() -> None:
    """Slow where DeepSpeed first builds its CPU collectives."""
    norms = run_distributed(deepspeed_step, 2, timeout=240)
    assert norms[0] == pytest.approx(norms[1]) == pytest.approx((4 * 1.5**2 + 1) ** 0.5)


def test_command_returns_code_and_output(tmp_path: Path) -> None:
    program = "import os, sys; print(os.getcwd(), os.environ['WORD']); sys.stderr.write('aside'); sys.exit(3)"
    done = run_command([sys.executable, "-c", program], tmp_path, 60, env={"WORD": "given"})
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{tmp_path} given\n", "aside")


def test_command_timeout_kills_the_whole_group_and_keeps_the_output(tmp_path: Path) -> None:
    script = f"sleep 600 & echo $$ $! > {tmp_path}/pids; echo so far; wait"
    with pytest.raises(subprocess.TimeoutExpired) as expired:
        run_command(["bash", "-c", script], tmp_path, timeout=1)
    assert expired.value.stdout == "so far\n"
    assert_gone([int(pid) for pid in (tmp_path / "pids").read_text().split()])


def test_command_leaves_nothing_behind_when_it_ends(tmp_path: Path) -> None:
    script = "sleep 600 > /dev/null 2>&1 & echo $!"
    done = run_command(["bash", "-c", script], tmp_path, timeout=30)
    assert done.returncode == 0
    assert_gone([int(done.stdout)])
