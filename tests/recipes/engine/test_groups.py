"""The optimizer's groups on the network of a task: layer-wise learning rates, and no decay of norms and biases, against plain torch."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from recipes.catalog import RECIPES
from recipes.config import OptimConfig, Recipe
from tests.distributed import run_distributed
from tests.recipes.engine.test_build import NO_THRESHOLD, random_batch, resolved

LAYER_DECAY, HEAD, DECAY, CLIP = 0.65, 4.0, 0.5, 1.0
RATES = (0.01, 0.005, 0.02)
"""Learning rates of three updates."""
NO_DROPOUT = ("hidden_dropout", "attention_dropout", "activation_dropout", "block.layerdrop", "block.drop_path")
SETTINGS = (
    *(f"model.{name}=0" for name in NO_DROPOUT),
    *(f"optim.layer_decay={LAYER_DECAY}", f"optim.head_lr_scale={HEAD}", "optim.decay_norms_and_biases=false"),
    *(f"optim.weight_decay={DECAY}", f"optim.clip_norm={CLIP}", "optim.betas=0.7,0.8", "optim.eps=1e-3"),
)
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
ROWS = 8
Group = tuple[list[str], float, int, float]
"""Names of the parameters, weight decay, frozen steps, factor on the rate."""


def build_network(recipe: Recipe, parallel: Any, stream: Any = None) -> nn.Module:
    """Return the network of a task with three classes, on the trunk of `recipe`. `stream`: its DropoutStream; None: a new one."""
    from model.config import HeadConfig
    from model.dropout import DropoutStream
    from model.init import Init
    from model.task_network import TaskNetwork
    from recipes.modalities.registry import MODALITIES

    frontend = MODALITIES[recipe.modality].build_frontend(recipe)
    head = HeadConfig(reads="mean", init_std=0.3)
    return TaskNetwork(recipe.model, frontend, Init(5), parallel, stream or DropoutStream(), head=head, num_outputs=3)


def expected_scale(name: str, num_layers: int) -> float:
    """Return the factor on the learning rate, as data2vec.md section 10.4 has it: 0.65^(L + 1 - i), embeddings i = 0, head 1."""
    block = re.match(r"trunk\.encoder\.layers\.(\d+)\.|trunk\.frontend\.relative_bias\.(\d+)\.", name)
    if block:
        return LAYER_DECAY ** (num_layers - int(block[1] or block[2]))
    if name.startswith("trunk.frontend.") and "relative_bias" not in name:
        return LAYER_DECAY ** (num_layers + 1)
    return HEAD if name.startswith("head.") else 1.0


def plain_groups(module: nn.Module, num_layers: int) -> list[dict[str, Any]]:
    """Return one group for each parameter of a module that is not sharded."""
    return [
        {"params": [p], "weight_decay": DECAY if p.ndim > 1 else 0.0, "scale": expected_scale(name, num_layers)}
        for name, p in module.named_parameters()
    ]


def follow_plain_adamw(world_size: int, tp_size: int, zero: dict[str, Any]) -> dict[str, Any]:
    """Take three updates with ZeRO-3, and with torch's AdamW on one rank with the same batches. Return for each parameter the largest
    difference, relative to its change; the gradient norms; and the number of groups."""
    from model.dropout import DropoutStream
    from model.parallel import Parallel, init_parallel
    from recipes.engine import shards
    from recipes.engine.build import EngineBuilder
    from recipes.engine.update import backward, set_learning_rate, step

    recipe, config = resolved(world_size, tp_size, zero, {}, *SETTINGS)
    parallel = init_parallel(tp_size, "cpu")
    engine = EngineBuilder(config, recipe.optim, parallel, DropoutStream()).trained(lambda: build_network(recipe, parallel))
    parameters = dict(shards.named_parameters(engine))

    def whole() -> dict[str, Tensor]:
        return {n: shards.gather_full(p, shards.master_shard(p), parallel).clone() for n, p in parameters.items()}

    alone = [dist.new_group([rank]) for rank in range(world_size)][dist.get_rank()]
    plain, first = build_network(recipe, Parallel(alone, alone, 1, 0, 1, 0)), whole()
    plain.load_state_dict(first)
    optimizer, norms = torch.optim.AdamW(plain_groups(plain, recipe.model.num_layers), betas=(0.7, 0.8), eps=1e-3), []
    for number, rate in enumerate(RATES):
        batches = [random_batch(recipe, ROWS // parallel.dp_size, 10 * number + dp_rank) for dp_rank in range(parallel.dp_size)]
        set_learning_rate(engine, rate, number)
        backward(engine, engine(batches[parallel.dp_rank]).square().sum(), ROWS, parallel.dp_size)
        step(engine)
        optimizer.zero_grad()
        (torch.stack([plain(batch).square().sum() for batch in batches]).sum() / ROWS).backward()
        norms.append(float(nn.utils.clip_grad_norm_(plain.parameters(), CLIP)))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        optimizer.step()
    ours, theirs = whole(), {name: p.detach() for name, p in plain.named_parameters()}
    moved = {name: float((theirs[name] - first[name]).abs().max()) for name in theirs}
    return {
        "errors": {name: float((ours[name] - theirs[name]).abs().max()) / max(moved[name], 1e-9) for name in theirs},
        "norms": norms,
        "groups": len(engine.optimizer.param_groups),
        "layers": recipe.model.num_layers,
    }


@pytest.mark.parametrize(
    ("world_size", "tp_size", "zero"),
    [
        pytest.param(1, 1, {}, marks=pytest.mark.slow),
        (1, 1, OFFLOAD),
        (2, 1, NO_THRESHOLD),
        pytest.param(2, 1, OFFLOAD, marks=pytest.mark.slow),
        (2, 2, {}),
    ],
    ids=["dp1", "offload", "dp2", "dp2_offload", "tp2"],
)
def test_each_parameter_of_a_task_takes_the_steps_of_plain_adamw_with_its_own_rate_and_decay_to_1e_4(
    world_size: int, tp_size: int, zero: dict[str, Any]
) -> None:
    for seen in run_distributed(follow_plain_adamw, world_size, world_size, tp_size, zero, timeout=280):
        assert min(seen["norms"]) > 2 * CLIP, "gradients must be clipped, over all groups together"
        assert {name: error for name, error in seen["errors"].items() if not error < 1e-4} == {}
        expected = 2 * (seen["layers"] + 2) + 1
        assert seen["groups"] == expected, "embeddings, blocks and head, with and without decay, and the table that all blocks share"


def groups_of(
    recipe: Recipe, parallel: Any, optim: OptimConfig, frozen: dict[str, int | None]
) -> list[tuple[list[str], float, int, float]]:
    """Return the groups of the task's network."""
    from recipes.engine.build import parameter_groups

    module = build_network(recipe, parallel)
    for parameter in module.parameters():
        parameter.ds_shape = parameter.shape  # type: ignore[attr-defined]  # zero.Init sets it
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = parameter_groups(module, optim, frozen)
    return [([names[id(p)] for p in one["params"]], one["weight_decay"], one["frozen_steps"], one["lr_scale"]) for one in found]


def task_groups(recipe: Recipe) -> dict[str, Any]:
    """Return the groups of the task's network with layer-wise rates; with a frozen trunk too; and with all defaults."""
    from model.parallel import init_parallel

    parallel = init_parallel(1, "cpu")
    optim = OptimConfig(layer_decay=LAYER_DECAY, head_lr_scale=HEAD, decay_norms_and_biases=False, weight_decay=DECAY)
    return {
        "scaled": groups_of(recipe, parallel, optim, {}),
        "frozen": groups_of(recipe, parallel, optim, {"trunk.frontend.": None, "trunk.": 5}),
        "default": groups_of(recipe, parallel, OptimConfig(), {}),
        "undecayed": groups_of(recipe, parallel, OptimConfig(decay_norms_and_biases=False), {}),
    }


def tiny(modality: str, **frontend: Any) -> Recipe:
    """Return the tiny recipe of a modality with a changed front-end."""
    recipe = RECIPES[modality][f"{modality}_tiny"]()
    return replace(recipe, frontend=replace(recipe.frontend, **frontend))


TINY = {
    "text": tiny("text"),
    "text_absolute": tiny("text", positions="absolute"),
    "speech": tiny("speech"),
    "vision": tiny("vision", relative_bias="shared"),
    "vision_per_layer": tiny("vision", relative_bias="per_layer"),
}
VECTORS = {"text": "norm.weight", "speech": "mask_vector", "vision": "cls_vector"}
"""A vector in the front-end of each modality."""


@pytest.mark.parametrize("name", TINY)
def test_blocks_have_decaying_rates_the_front_end_the_smallest_and_vectors_no_weight_decay(name: str) -> None:
    recipe, (seen,) = TINY[name], run_distributed(task_groups, 1, TINY[name])
    L, scaled = recipe.model.num_layers, seen["scaled"]
    scale_of = {one: scale for names, _, _, scale in scaled for one in names}
    assert scale_of == pytest.approx({one: expected_scale(one, L) for one in scale_of}, rel=1e-12)
    keys = [(decay, steps, scale) for _, decay, steps, scale in scaled]
    assert len(set(keys)) == len(keys), "one group for each kind"
    undecayed = {one for names, decay, _, _ in scaled for one in names if not decay}
    assert f"trunk.frontend.{VECTORS[recipe.modality]}" in undecayed and "head.layers.0.bias" in undecayed
    assert not {one for one in undecayed if one.endswith(("weight", "weight_v")) and "norm" not in one and "scale" not in one}
    biases = {one for one in scale_of if "relative_bias" in one}
    assert not biases & undecayed, "a table of relative positions is decayed, as in BEiT"
    assert bool(biases) is (name not in ("text_absolute", "speech"))


@pytest.mark.parametrize("name", TINY)
def test_with_default_rates_there_is_one_group_for_each_weight_decay(name: str) -> None:
    (seen,) = run_distributed(task_groups, 1, TINY[name])
    ((names, *numbers),) = seen["default"]
    assert numbers == [0.01, 0, 1.0]
    assert [(decay, steps, scale) for _, decay, steps, scale in seen["undecayed"]] == [(0.01, 0, 1.0), (0.0, 0, 1.0)]
    for _, *rest in seen["undecayed"]:
        assert rest[2] == 1.0
    for some, *_ in seen["undecayed"]:
        assert some == [one for one in names if one in some], "in the order of the module"


def test_frozen_blocks_keep_their_factor_and_what_is_never_trained_is_in_no_group() -> None:
    (seen,) = run_distributed(task_groups, 1, TINY["text"])
    L = TINY["text"].model.num_layers
    names = [one for some, *_ in seen["frozen"] for one in some]
    assert not [one for one in names if one.startswith("trunk.frontend.")]
    for some, _, steps, scale in seen["frozen"]:
        assert {one.startswith("trunk.") for one in some} == {steps == 5}
        assert all(expected_scale(one, L) == pytest.approx(scale, rel=1e-12) for one in some)
