"""Copies of the model on groups of ranks: which sizes are possible, and what an impossible one says."""

import re
from typing import Any

import pytest

from recipes.ds_config import BatchPlan, resolve, with_micro_batch
from recipes.errors import ConfigError
from recipes.text import text_base

OFFLOAD = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}


def batch_of(shard_size: int, world_size: int, local_size: int | None = None, tp_size: int = 1, **others: Any) -> BatchPlan:
    megatron = {"shard_size": shard_size, "tensor_model_parallel_size": tp_size} | others.pop("megatron", {})
    return resolve(text_base(), {"megatron": megatron} | others, "x.json", world_size, local_size).batch


@pytest.mark.parametrize(
    ("shard_size", "world_size", "tp_size", "num_replicas"), [(8, 32, 1, 4), (8, 8, 1, 1), (8, 4, 1, 1), (4, 32, 2, 4), (2, 4, 1, 2)]
)
def test_data_parallel_ranks_form_copies_of_the_model_of_the_shard_size_or_of_all_ranks(
    shard_size: int, world_size: int, tp_size: int, num_replicas: int
) -> None:
    batch = batch_of(shard_size, world_size, tp_size=tp_size)
    assert (batch.num_replicas, batch.shard_size) == (num_replicas, world_size // tp_size // num_replicas)


def test_without_a_shard_size_there_is_one_copy() -> None:
    batch = resolve(text_base(), {}, "x.json", 64).batch
    assert (batch.num_replicas, batch.shard_size) == (1, 64)


def test_another_micro_batch_keeps_the_copies() -> None:
    recipe = text_base()
    config = resolve(recipe, {"megatron": {"shard_size": 8, "across_nodes": True}}, "x.json", 64)
    changed = with_micro_batch(recipe, config, 2).batch
    assert (changed.micro_batch_size, changed.num_replicas, changed.may_cross_nodes) == (2, 8, True)


@pytest.mark.parametrize(
    ("shard_size", "world_size", "said"),
    [
        (6, 32, "megatron.shard_size 6 does not divide the 32 data-parallel ranks; use 8 or 16, or leave it out to shard over all of them"),
        (3, 4, "megatron.shard_size 3 does not divide the 4 data-parallel ranks; use 2, or leave it out to shard over all of them"),
        (2, 3, "megatron.shard_size 2 does not divide the 3 data-parallel ranks; leave it out to shard over all of them"),
        (1, 4, "megatron.shard_size is 1, must be a whole number from 2 to 65536"),
    ],
)
def test_a_shard_size_that_does_not_divide_the_ranks_names_those_that_do(shard_size: int, world_size: int, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said) + "$"):
        batch_of(shard_size, world_size)


def test_a_copy_that_would_cross_nodes_must_be_asked_for() -> None:
    said = (
        "megatron.shard_size 16 does not fit into a node of 8 ranks, so every layer would wait for the network; use 4 or 8, or ask for it"
    )
    with pytest.raises(ConfigError, match=said):
        batch_of(16, 64, 8)
    with pytest.raises(ConfigError, match=r"shard_size 8 x tensor_model_parallel_size 2 does not fit into a node of 8 ranks.* use 2 or 4,"):
        batch_of(8, 64, 8, tp_size=2)
    assert batch_of(16, 64, 8, megatron={"across_nodes": True}).num_replicas == 4
    assert batch_of(16, 64).num_replicas == 4, "the nodes of a dry run are unknown"
    assert batch_of(8, 64, 8).num_replicas == 8


def test_several_copies_with_an_offloaded_optimizer_are_refused() -> None:
    with pytest.raises(ConfigError, match="shard_size 8 of 64 data-parallel ranks does not work with offload_optimizer"):
        batch_of(8, 64, **OFFLOAD)
    assert batch_of(64, 64, **OFFLOAD).num_replicas == 1
