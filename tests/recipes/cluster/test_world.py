"""Doing something once for all ranks, and starting without a launcher."""

import os
import re

import pytest
import torch
import torch.distributed as dist

from recipes.cluster import world as world_module
from recipes.cluster.world import World, join_world, leave_world
from recipes.errors import ConfigError, Stopped, TrainingBroken
from tests.distributed import RankFailure, run_distributed


def refuse(kind: type[BaseException]) -> None:
    raise kind(f"said by rank {dist.get_rank()}")


def report() -> tuple:
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


def test_once_runs_on_rank_0_and_all_get_its_result_or_its_error() -> None:
    errors = [(name, "said by rank 0") for name in ("ConfigError", "TrainingBroken", "Stopped")]
    assert run_distributed(report, 3) == [({"from": 0}, [0] if rank == 0 else [], errors, None) for rank in range(3)]


def defect() -> None:
    world = World(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), dist.new_group(backend="gloo"))
    world.on_rank_zero(lambda: 1 // 0)


def test_a_defect_in_once_is_not_dressed_up_as_a_users_error() -> None:
    with pytest.raises(RankFailure, match="ZeroDivisionError"):
        run_distributed(defect, 2)


def trip(message: str) -> str:
    if message:
        raise ConfigError(message)
    return "fine"


def everywhere(messages: tuple[str, ...]) -> str:
    """What a job on every rank came to, where rank n meets the n-th mistake."""
    group = dist.new_group(backend="gloo")
    world = World(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), group, ("a", "b", "b"))
    try:
        return world.on_all_ranks(lambda: trip(messages[world.rank]))
    except ConfigError as error:
        return str(error)


def test_a_mistake_on_one_node_is_raised_on_all_with_the_nodes_name() -> None:
    assert run_distributed(everywhere, 3, ("", "", "")) == ["fine"] * 3
    assert run_distributed(everywhere, 3, ("", "no file", "")) == ["b: no file"] * 3
    assert run_distributed(everywhere, 3, ("no file", "no file", "no file")) == ["no file"] * 3


def largest() -> int:
    world = World(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), dist.new_group(backend="gloo"))
    return world.largest((5 << 40) - world.rank)


def test_the_largest_of_all_ranks_numbers_is_known_on_all() -> None:
    assert run_distributed(largest, 2) == [5 << 40] * 2


def join_alone() -> tuple:
    dist.destroy_process_group()
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"):
        os.environ.pop(name, None)
    world = join_world()
    control = dist.get_world_size(world.control)
    told = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "DS_ACCELERATOR")}
    leave_world()
    leave_world()
    return world.rank, world.size, world.device.type, control, told, dist.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the backend without CUDA")
def test_plain_python_is_a_world_of_one() -> None:
    told = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    assert run_distributed(join_alone, 1) == [(0, 1, "cpu", 1, told, False)]


@pytest.mark.parametrize(("local_rank", "num_devices", "device"), [(3, 1, 0), (3, 8, 3), (0, 1, 0), (5, 4, 1)])
def test_local_rank_follows_the_device_where_each_task_sees_its_own(
    local_rank: int, num_devices: int, device: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_devices)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert world_module._take_device(local_rank) == torch.device("cuda", device)
    assert taken == [torch.device("cuda", device)] and os.environ["LOCAL_RANK"] == str(device)


def join_launched() -> tuple:
    """As under a launcher: the group does not exist yet, its variables do."""
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


def join_without_the_last() -> str:
    """Rank 1 never comes."""
    dist.destroy_process_group()
    if dist.is_initialized() or os.environ["RANK"] == "1":
        return "away"
    os.environ["DATA2VEC_MEETING_SECONDS"] = "1"
    try:
        join_world()
    except ConfigError as error:
        return str(error)
    return "joined"


def test_a_rank_that_does_not_come_is_named_after_a_bounded_time() -> None:
    said, _ = run_distributed(join_without_the_last, 2)
    assert said.startswith("1 of 2 ranks have not come within 1 s: 1") and "DATA2VEC_MEETING_SECONDS" in said, said


def join_with_left_over_variables() -> tuple[list[str], int]:
    """What is said, and the size of the world without the variables that it names."""
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
    os.environ.update(WORLD_SIZE="2", DATA2VEC_MEETING_SECONDS="1")
    before, said = dict(os.environ), list[str]()
    try:
        join_world(said.append)
    except ConfigError as error:
        said.append(str(error))
    os.environ.clear()
    os.environ.update(before)
    for name in said[-1].partition("for one process: unset ")[2].rstrip(")").split():
        del os.environ[name]
    size = join_world(said.append).size
    leave_world()
    return said, size


def test_variables_left_over_of_a_launcher_are_said_while_it_waits_and_without_them_it_does_not() -> None:
    ((said, size),) = run_distributed(join_with_left_over_variables, 1)
    origin = r" \(no launcher has set WORLD_SIZE; for one process: unset WORLD_SIZE\)"
    waits, ends = said
    assert re.fullmatch(f"waiting up to 1 s for 1 of 2 ranks{origin}", waits) and re.fullmatch(
        f"1 of 2 ranks have not come .*{origin}", ends
    )
    assert size == 1


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"RANK": "1", "WORLD_SIZE": "2"},
            "rank 1 of 2 is not told where rank 0 is; set MASTER_ADDR and MASTER_PORT .*unset RANK WORLD_SIZE",
        ),
        ({"DS_ACCELERATOR": "cuda"}, "DS_ACCELERATOR=cuda, but torch finds no CUDA device on .*; unset DS_ACCELERATOR"),
        *(
            ({"WORLD_SIZE": "2", "DATA2VEC_MEETING_SECONDS": text}, f"DATA2VEC_MEETING_SECONDS={text}: must be")
            for text in ("inf", "0", "nan")
        ),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_what_can_come_to_nothing_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, variables: dict, said: str) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # join_world writes
    monkeypatch.setattr(dist, "is_initialized", lambda: False)  # another test of this process may have joined one
    with pytest.raises(ConfigError, match=said):
        join_world()


def test_the_cpu_is_taken_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for asked, on_cuda in (("cpu", False), ("cuda", True), ("", True)):
        monkeypatch.setenv("DS_ACCELERATOR", asked)
        assert world_module._is_on_cuda() == on_cuda
