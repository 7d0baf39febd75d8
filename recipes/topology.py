"""Checks how a ds_config shares the model among ranks: tensor-parallel size, copies of the model, and nodes. Torch-free. What each rank's
groups are: model/parallel.py. Which node a rank really is on: recipes/cluster/world_check.py."""

from typing import Any

from recipes.config import Recipe
from recipes.errors import ConfigError


def number_of_replicas(content: dict[str, Any], dp_size: int) -> int:
    """Return the number of copies of the model: one if megatron.shard_size is not below the number of data-parallel ranks. Raises:
    ConfigError if it does not divide them, or if several copies do not work with the rest of the ds_config."""
    shard_size = min(content.get("megatron", {}).get("shard_size", dp_size), dp_size)
    offload = content.get("zero_optimization", {}).get("offload_optimizer", {}).get("device", "none")
    if dp_size % shard_size:
        fits = [n for n in range(2, dp_size) if dp_size % n == 0]
        remedy = f"use {' or '.join(map(str, fits[-2:]))}, or leave it out" if fits else "leave it out"
        raise ConfigError(
            f"megatron.shard_size {shard_size} does not divide the {dp_size} data-parallel ranks; {remedy} to shard over all of them"
        )
    if shard_size < dp_size and offload != "none":
        raise ConfigError(
            f"megatron.shard_size {shard_size} of {dp_size} data-parallel ranks does not work with offload_optimizer, which "
            "moves gradients to the host before all copies of the model have added theirs; leave one of them out"
        )
    return dp_size // shard_size


def check_nodes(name: str, size: int, local_size: int, times: int = 1) -> None:
    """Check that each `size` x `times` neighbouring ranks lie on one node, which has `local_size` ranks. `name`: the key with the value
    `size`. `times`: the tensor-parallel size, if that multiplies it. Raises: ConfigError."""
    if local_size % (size * times):
        fits = [str(n) for n in range(1, local_size + 1) if local_size % (n * times) == 0]
        product = f" x tensor_model_parallel_size {times}" if times > 1 else ""
        raise ConfigError(
            f"{name} {size}{product} does not fit into a node of {local_size} ranks, so every layer would wait for the network; "
            f'use {" or ".join(fits[-2:]) or "fewer"}, or ask for it with "megatron": {{"across_nodes": true}}'
        )


def check_tensor_parallel(recipe: Recipe, tp_size: int, world_size: int) -> None:
    """Check that `tp_size` tensor-parallel ranks can split the recipe's layers, and that they divide the ranks. The model comes first,
    since no number of ranks makes a size fit that the model refuses. Raises: ConfigError."""
    heads = recipe.model.num_attention_heads
    split = {"model.num_attention_heads": heads, "model.ffn_hidden_size": recipe.model.ffn_hidden_size, **recipe.frontend.split_sizes()}
    for name, size in split.items():
        if size % tp_size:
            fitting = [n for n in range(1, heads + 1) if not any(other % n for other in split.values())]
            raise ConfigError(
                f"{name} {size} is not a multiple of tensor_model_parallel_size {tp_size}; in the ds_config's section megatron set it to "
                f"{' or '.join(map(str, fitting))}"
            )
    if world_size % tp_size:
        ranks = -(-world_size // tp_size) * tp_size
        raise ConfigError(
            f"{world_size} ranks are not a multiple of tensor_model_parallel_size {tp_size}; start {ranks} ranks "
            f"(deepspeed --num_gpus {ranks} launch/...), or name another --deepspeed_config (a run may change it)"
        )
