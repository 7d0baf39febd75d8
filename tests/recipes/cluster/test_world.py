"""Running a function on rank 0 or on all ranks, and joining a world with and without a launcher."""

import os
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from recipes.cluster import world as world_module
from recipes.cluster.world import World, build_control_group, join_world, leave_world
from recipes.errors import ConfigError, Stopped, TrainingBroken
from tests.distributed import RankFailure, run_distributed


def refuse(kind: type[BaseException]) -> None:
    raise kind(f"raised by rank {dist.get_rank()}")


def run_on_rank_zero() -> tuple:
    world = World(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), dist.new_group(backend="gloo"))
    calls: list[int] = []
    value = world.on_rank_zero(lambda: calls.append(world.rank) or {"from": world.rank})
    caught = []
    for kind in (ConfigError, TrainingBroken, Stopped):
        try:
            world.on_rank_zero(lambda kind=kind: refuse(kind))
        except (ConfigError, TrainingBroken, Stopped) as error:
            caught.append((type(error).__name__, str(error)))
    return value, calls, caught, world.on_rank_zero(lambda: None)


def test_on_rank_zero_runs_on_rank_0_and_all_get_its_result_or_its_error() -> None:
    errors = [(name, "raised by rank 0") for name in ("ConfigError", "TrainingBroken", "Stopped")]
    assert run_distributed(run_on_rank_zero, 3) == [({"from": 0}, [0] if rank == 0 else [], errors, None) for rank in range(3)]


def defect() -> None:
    world = World(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), dist.new_group(backend="gloo"))
    world.on_rank_zero(lambda: 1 // 0)


def test_a_defect_in_on_rank_zero_is_not_turned_into_a_users_error() -> None:
    with pytest.raises(RankFailure, match="ZeroDivisionError"):
        run_distributed(defect, 2)


def fail_with(message: str) -> str:
    if message:
        raise ConfigError(message)
    return "fine"


def run_on_all_ranks(messages: tuple[str, ...]) -> str:
    """Return the result or the error of a job on every rank; on rank n it fails with the n-th message."""
    group = dist.new_group(backend="gloo")
    world = World(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), group, ("a", "b", "b"))
    try:
        return world.on_all_ranks(lambda: fail_with(messages[world.rank]))
    except ConfigError as error:
        return str(error)


def test_an_error_on_one_node_is_raised_on_all_with_the_nodes_name() -> None:
    assert run_distributed(run_on_all_ranks, 3, ("", "", "")) == ["fine"] * 3
    assert run_distributed(run_on_all_ranks, 3, ("", "no file", "")) == ["b: no file"] * 3
    assert run_distributed(run_on_all_ranks, 3, ("no file", "no file", "no file")) == ["no file"] * 3


def largest() -> int:
    world = World(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), dist.new_group(backend="gloo"))
    return world.largest((5 << 40) - world.rank)


def test_all_ranks_get_the_largest_number() -> None:
    assert run_distributed(largest, 2) == [5 << 40] * 2


def join_alone() -> tuple:
    dist.destroy_process_group()
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"):
        os.environ.pop(name, None)
    world = join_world()
    control = dist.get_world_size(world.control)
    exported = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "DS_ACCELERATOR")}
    leave_world()
    leave_world()
    return world.rank, world.size, world.device.type, control, exported, dist.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the backend without CUDA")
def test_plain_python_is_a_world_of_one_rank() -> None:
    exported = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    assert run_distributed(join_alone, 1) == [(0, 1, "cpu", 1, exported, False)]


@pytest.mark.parametrize(("local_rank", "num_devices", "device"), [(3, 1, 0), (3, 8, 3), (0, 1, 0), (5, 4, 1)])
def test_local_rank_is_the_index_of_the_device_if_each_task_sees_only_its_own(
    local_rank: int, num_devices: int, device: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_devices)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert world_module._take_device(local_rank) == torch.device("cuda", device)
    assert taken == [torch.device("cuda", device)] and os.environ["LOCAL_RANK"] == str(device)


def join_with_devices(devices: list[str | None]) -> str:
    """Join as if rank n had the n-th CUDA device; return the error, or "joined"."""
    dist.destroy_process_group()
    world_module._device_id = lambda device: devices[int(os.environ["RANK"])]  # type: ignore[assignment]
    try:
        join_world()
    except ConfigError as error:
        return f"{error}, {dist.is_initialized()}"
    return "joined"


def test_more_ranks_on_a_node_than_devices_are_one_line_on_every_rank() -> None:
    """NCCL would end in a traceback, at the first collective."""
    node = re.escape(os.uname().nodename)
    first, *others = run_distributed(join_with_devices, 3, ["GPU-a", "GPU-b", "GPU-a"])
    said = (
        rf"3 ranks on {node}, but they see 2 CUDA devices, and NCCL needs one per rank; start 2 there \(deepspeed --num_gpus 2, .*, False"
    )
    assert re.fullmatch(said, first) and others == [first] * 2
    assert run_distributed(join_with_devices, 2, ["GPU-a", "GPU-b"]) == ["joined"] * 2
    assert run_distributed(join_with_devices, 2, [None, None]) == ["joined"] * 2


def test_tasks_that_see_their_own_device_alone_do_not_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them have device 0 then (`srun --gpus-per-task=1`)."""
    uuids = iter(["a", "b", "b"])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=next(uuids)))
    places = [("node", world_module._device_id(torch.device("cuda", 0))) for _ in range(3)]
    assert world_module._shared_devices(places[:2]) is None
    complaint = world_module._shared_devices(places[1:])
    assert complaint is not None and complaint.startswith("2 ranks on node, but they see 1 CUDA device, ")
    assert world_module._device_id(torch.device("cpu")) is None


def join_launched() -> tuple:
    """Join as under a launcher: its variables are set, and the process group does not exist yet."""
    port = os.environ["MASTER_PORT"]
    dist.destroy_process_group()
    world = join_world()
    assert world.hosts == (os.uname().nodename,) * 2, world.hosts
    total = torch.tensor(world.rank + 1)
    dist.all_reduce(total)
    leave_world()
    return world.rank, world.size, int(total), os.environ["MASTER_PORT"] == port


def test_launched_processes_find_each_other() -> None:
    assert run_distributed(join_launched, 2) == [(0, 2, 3, True), (1, 2, 3, True)]


def files_of_a_group() -> tuple[int, int]:
    """Join. Return how many open files another group of all ranks adds to this process, and how many its first messages add."""
    dist.destroy_process_group()
    world, before = join_world(), num_open_files()
    group = build_control_group()
    built = num_open_files()
    other = replace(world, control=group)
    other.gather(None)
    other.on_rank_zero(lambda: None)
    other.largest(1)
    return built - before, num_open_files() - built


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_rank_connects_to_a_few_others_and_does_so_when_the_group_is_made() -> None:
    """On 8 ranks a full mesh adds 11 files, and a ring and a tree add 8. On 512 ranks it would be 515 and 14. If gloo connected at the
    first message, a rank could wait for two days for one that has ended meanwhile."""
    added, later = zip(*run_distributed(files_of_a_group, 8), strict=True)
    assert max(added) <= 8 and later == (0,) * 8


def join_without_rank_1() -> str:
    """Return the error of join_world() on rank 0; rank 1 never joins."""
    dist.destroy_process_group()
    if dist.is_initialized() or os.environ["RANK"] == "1":
        return "away"
    os.environ["DATA2VEC_RENDEZVOUS_SECONDS"] = "1"
    try:
        join_world()
    except ConfigError as error:
        return str(error)
    return "joined"


def test_a_rank_that_does_not_join_is_named_after_a_bounded_time() -> None:
    message, _ = run_distributed(join_without_rank_1, 2)
    assert message.startswith("1 of 2 ranks have not joined within 1 s: 1") and "DATA2VEC_RENDEZVOUS_SECONDS" in message, message


def join_with_stray_variables() -> tuple[list[str], int]:
    """Return the printed lines and the error, and the size of the world after the variables that they name were unset."""
    dist.destroy_process_group()
    for name in (
        "RANK",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "TORCHELASTIC_RUN_ID",
        "TORCHELASTIC_USE_AGENT_STORE",
    ):
        os.environ.pop(name, None)
    os.environ.update(WORLD_SIZE="2", DATA2VEC_RENDEZVOUS_SECONDS="1")
    before, lines = dict(os.environ), list[str]()
    try:
        join_world(lines.append)
    except ConfigError as error:
        lines.append(str(error))
    os.environ.clear()
    os.environ.update(before)
    for name in lines[-1].partition("for one process: unset ")[2].rstrip(")").split():
        del os.environ[name]
    size = join_world(lines.append).size
    leave_world()
    return lines, size


def test_stray_launcher_variables_are_named_while_rank_0_waits_and_without_them_it_does_not_wait() -> None:
    ((lines, size),) = run_distributed(join_with_stray_variables, 1)
    origin = r" \(no launcher has set WORLD_SIZE; for one process: unset WORLD_SIZE\)"
    waits, ends = lines
    assert re.fullmatch(f"waiting up to 1 s for 1 of 2 ranks{origin}", waits) and re.fullmatch(
        f"1 of 2 ranks have not joined .*{origin}", ends
    )
    assert size == 1


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"RANK": "1", "WORLD_SIZE": "2"},
            "rank 1 of 2 has no address of rank 0; set MASTER_ADDR and MASTER_PORT .*unset RANK WORLD_SIZE",
        ),
        ({"DS_ACCELERATOR": "cuda"}, "DS_ACCELERATOR=cuda, but torch finds no CUDA device on .*; unset DS_ACCELERATOR"),
        *(
            ({"WORLD_SIZE": "2", "DATA2VEC_RENDEZVOUS_SECONDS": text}, f"DATA2VEC_RENDEZVOUS_SECONDS={text}: must be")
            for text in ("inf", "0", "nan")
        ),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_variables_that_cannot_work_are_refused_at_once(monkeypatch: pytest.MonkeyPatch, variables: dict, message: str) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # join_world writes
    monkeypatch.setattr(dist, "is_initialized", lambda: False)  # another test of this process may have joined one
    with pytest.raises(ConfigError, match=message):
        join_world()


def test_the_cpu_is_used_if_it_is_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for requested, on_cuda in (("cpu", False), ("cuda", True), ("", True)):
        monkeypatch.setenv("DS_ACCELERATOR", requested)
        assert world_module._is_on_cuda() == on_cuda
