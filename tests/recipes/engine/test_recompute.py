"""Activations that are recomputed in the backward, under ZeRO-3 on the network of a task: the same gradients, and no weight stays."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed import run_distributed
from tests.recipes.engine.test_build import BF16, LARGE_THRESHOLD, NO_THRESHOLD, random_batch, resolved
from tests.recipes.engine.test_groups import OFFLOAD, build_network

ON = {"activation_checkpointing": {"enabled": True}}
DROPOUT = ("model.hidden_dropout=0.1", "model.attention_dropout=0.1", "model.activation_dropout=0.1", "model.block.layerdrop=0.3")
UPDATES, MICRO_BATCHES = 3, 2
FROZEN: dict[str, int | None] = {"trunk.frontend.": None, "trunk.encoder.layers.0.": None, "trunk.": 1}


def updates_of(world_size: int, tp_size: int, zero: dict[str, Any], other: dict[str, Any], frozen: dict[str, int | None]) -> dict[str, Any]:
    """Take three updates. Return the gradients before each, how often a block ran in training, which parameters are still gathered after
    a backward, and the modules whose forward ZeRO-3 takes for unfinished."""
    from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK

    from model.dropout import DropoutStream
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.build import EngineBuilder
    from recipes.engine.update import backward, set_learning_rate, step

    micro = 8 * tp_size // world_size // MICRO_BATCHES
    recipe, config = resolved(world_size, tp_size, zero, {"train_micro_batch_size_per_gpu": micro} | other, *DROPOUT)
    parallel, stream = init_parallel(tp_size, "cpu"), DropoutStream(seed=3)
    engine = EngineBuilder(config, recipe.optim, parallel, stream).trained(lambda: build_network(recipe, parallel, stream), frozen)
    parameters, runs, seen, gathered = dict(shards.trained_parameters(engine)), list[int](), list[dict[str, Tensor]](), set[str]()
    engine.module.trunk.encoder.layers[1].ffn.register_forward_hook(lambda *_: runs.append(1))
    for update in range(UPDATES):
        set_learning_rate(engine, 0.01, update)
        for stream.micro_batch in range(MICRO_BATCHES):
            if stream.micro_batch:
                step(engine)
            stream.update = update
            batch = random_batch(recipe, micro, 10 * update + 100 * stream.micro_batch + parallel.dp_rank)
            backward(engine, engine(batch, not frozen or update > 0).square().sum(), 8, parallel.dp_size)
            gathered |= {n for n, p in shards.named_parameters(engine) if p.numel() and not p.ds_persist}
        seen.append({n: shards.gradient_shard(p).clone() for n, p in parameters.items()})
        step(engine)
    return {"gradients": seen, "runs": len(runs), "gathered": gathered, "unfinished": len(FWD_MODULE_STACK)}


@pytest.mark.parametrize(
    ("world_size", "tp_size", "zero", "other", "frozen"),
    [
        pytest.param(2, 1, NO_THRESHOLD, {}, {}, marks=pytest.mark.slow),
        (2, 1, NO_THRESHOLD, {}, FROZEN),
        pytest.param(2, 1, LARGE_THRESHOLD, BF16, {}, marks=pytest.mark.slow),
        pytest.param(2, 2, {}, {}, {}, marks=pytest.mark.slow),
        pytest.param(1, 1, OFFLOAD, {}, {}, marks=pytest.mark.slow),
    ],
    ids=["dp2", "dp2_frozen", "dp2_bf16_large_persistence", "tp2", "offload"],
)
def test_recomputed_activations_give_the_same_gradients_bit_for_bit_and_release_all_weights(
    world_size: int, tp_size: int, zero: dict[str, Any], other: dict[str, Any], frozen: dict[str, int | None]
) -> None:
    args = (updates_of, world_size, world_size, tp_size, zero)
    seen = [run_distributed(*args, other | section, frozen, timeout=100) for section in ({}, ON)]
    for stored, recomputed in zip(*seen, strict=True):
        trained = UPDATES - 1 if frozen else UPDATES
        assert stored["runs"] == UPDATES * MICRO_BATCHES and recomputed["runs"] == (UPDATES + trained) * MICRO_BATCHES
        assert (recomputed["gathered"], recomputed["unfinished"]) == (set(), stored["unfinished"])
        for one, other_one in zip(stored["gradients"], recomputed["gradients"], strict=True):
            assert one.keys() == other_one.keys() and any(gradient.any() for gradient in one.values())
            assert [name for name, gradient in one.items() if not torch.equal(gradient, other_one[name])] == []


@pytest.mark.parametrize("is_on", [False, True])
def test_the_section_decides_what_is_recomputed_and_deepspeed_itself_does_not_read_it(is_on: bool) -> None:
    (_, plain), (_, config) = (resolved(1, 1, {}, other) for other in ({}, {"activation_checkpointing": {"enabled": is_on}}))
    assert config == replace(plain, recomputes_activations=is_on) and not plain.recomputes_activations
