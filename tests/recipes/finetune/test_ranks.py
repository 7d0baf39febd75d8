"""Ranks between the runs of two seeds: one port for all, one decision to stop, and the first rank's exit code for all."""

import os
from typing import Any

import pytest
import torch.distributed as dist

from recipes.cluster.rendezvous import Rendezvous
from recipes.finetune.ranks import AGENT_STORE, JoinedRanks
from tests.distributed import run_distributed


def joined(*, by_torchrun: bool = False) -> JoinedRanks:
    store = dist.PrefixStore("test", dist.distributed_c10d._get_default_store())
    os.environ |= {"MASTER_ADDR": "node1", AGENT_STORE: str(by_torchrun)}
    return JoinedRanks(Rendezvous(store, dist.get_rank(), dist.get_world_size(), 30), is_one_node=True)


def two_seeds() -> Any:
    ranks = joined()
    envs = [ranks.begin(number, False) for number in (1, 2)]
    return envs, ranks.end(1, 0)


def test_all_ranks_get_the_same_new_port_for_each_seed() -> None:
    (envs, code), *others = run_distributed(two_seeds, 3)
    assert others == [(envs, code)] * 2 and code == 0
    assert envs[0]["MASTER_PORT"] != envs[1]["MASTER_PORT"]
    assert {(env["MASTER_ADDR"], env[AGENT_STORE]) for env in envs} == {("node1", "False")}


def one_is_asked() -> Any:
    return joined().begin(2, is_stopped=dist.get_rank() == 1)


def test_all_ranks_stop_if_one_of_them_was_asked() -> None:
    assert run_distributed(one_is_asked, 2) == [None, None]


def finds(found: list[bool]) -> bool:
    return joined().agree(1, found[dist.get_rank()])


@pytest.mark.parametrize("first", [True, False])
def test_the_first_rank_decides_whether_a_seed_is_finished(first: bool) -> None:
    assert run_distributed(finds, 2, [first, not first]) == [first, first]


def ends_with(codes: list[int]) -> int:
    return joined().end(1, codes[dist.get_rank()])


@pytest.mark.parametrize(("codes", "expected"), [([2, 0], [2, 2]), ([75, 75], [75, 75]), ([0, 3], [0, 3])])
def test_a_rank_returns_its_own_exit_code_or_that_of_the_first_rank(codes: list[int], expected: list[int]) -> None:
    assert run_distributed(ends_with, 2, codes) == expected


def under_torchrun() -> Any:
    return joined(by_torchrun=True).begin(1, False)


def test_under_torchrun_the_ranks_of_one_node_join_on_it() -> None:
    for env in run_distributed(under_torchrun, 2):
        assert env["MASTER_ADDR"] == "127.0.0.1" and env[AGENT_STORE] == "False"
