"""The engines: what each rank holds, and that the sharded EMA equals the unsharded one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor.debug import CommDebugMode

from model.batch import Batch, Masks
from recipes.config import Recipe
from recipes.ds_config import EngineConfig, load_ds_config, resolve
from recipes.settings import apply_overrides
from recipes.text import text_tiny
from tests.distributed import run_distributed

ROOT = Path(__file__).parents[3]
BF16 = {"bf16": {"enabled": True}}
FORWARD_SETTINGS = ("teacher.layer_norms=layer", "teacher.average_norms=")
"""No norm over time: it divides by the standard deviation of a channel over positions. That can be small, which would amplify rounding."""
LARGE_THRESHOLD = {"stage3_param_persistence_threshold": 10**9}
NO_THRESHOLD = {"stage3_param_persistence_threshold": 0}
BY_GATHERS = NO_THRESHOLD | {"stage3_use_all_reduce_for_fetch_params": False, "reduce_scatter": True}
"""As on GPUs: all-gather and reduce-scatter, where zero3_cpu.json has all-reduces."""
NODES = {"megatron": {"shard_size": 2, "teacher_gather": "update"}}
"""Copies of the model on each two data-parallel ranks, and a teacher that is gathered once per update."""


def resolved(world_size: int, tp_size: int, zero: dict[str, Any], other: dict[str, Any], *settings: str) -> tuple[Recipe, EngineConfig]:
    """Return text_tiny and zero3_cpu.json with changes, and without leaf modules, which not every network has."""
    recipe = apply_overrides(text_tiny(), ["run.global_batch_size=8", "data.sequence_length=32", *settings])
    content = load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json") | other
    content["megatron"] = {"tensor_model_parallel_size": tp_size, "teacher_gather": "layer"} | other.get("megatron", {})
    content["zero_optimization"] = {key: value for key, value in content["zero_optimization"].items() if key != "leaf_module"} | zero
    return recipe, resolve(recipe, content, "test", world_size)


def random_batch(recipe: Recipe, rows: int, seed: int) -> Batch:
    """Return random tokens, about a third of them masked."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary, S = recipe.frontend.vocab_size, recipe.data.sequence_length
    clean_BS = torch.randint(4, vocabulary - 1, (rows, S), generator=generator)
    mask_BS = torch.rand(rows, S, generator=generator) < 0.3
    return Batch(clean_BS.masked_fill(mask_BS, vocabulary - 1), clean_BS, Masks.of(mask_BS), None, None, rows * S)


def follow_ema(world_size: int, tp_size: int, zero: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Take 20 updates. Compare the shadow with a full fp32 lerp over gathered masters, and the teacher's forward with a plain trunk whose
    weights are the gathered shadow."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import add_up_replicas, backward
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(world_size, tp_size, zero, other, "teacher.shares=frontend", "optim.lr=0.01", *FORWARD_SETTINGS)
    parallel = init_parallel(tp_size, "cpu", config.batch.num_replicas)
    objective = build_objective(recipe, config, parallel)
    parameters = dict(shards.named_parameters(objective.student))

    def whole(shard_of: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: shards.gather_full(parameters[n], s, parallel) for n, s in shard_of.items()}

    def masters() -> dict[str, Tensor]:
        return whole({n: shards.master_shard(parameters[n]) for n in objective.shadow.shadows})

    copied = {f"trunk.frontend.{n}" for n in objective.student.module.trunk.frontend.shared_parameters(recipe.teacher.shares)}
    reference, collectives = masters(), 0
    for step in range(20):
        batch = random_batch(recipe, 8 // parallel.dp_size, 100 * step + parallel.dp_rank)
        for micro in range(config.batch.accumulation_steps):
            objective.stream.update, objective.stream.micro_batch = step, micro
            backward(objective.student, objective.forward(batch, 64).loss, 64, parallel.shard_size)
            if micro + 1 == config.batch.accumulation_steps:
                add_up_replicas(objective.student, parallel)
            objective.student.step()
        with CommDebugMode() as counted:
            objective.shadow.update(0.9)
        collectives += counted.get_total_counts()
        now = masters()
        reference = {n: now[n] if n in copied else torch.lerp(reference[n], now[n], 1 - 0.9) for n in reference}
    shadow = whole(objective.shadow.shadows)
    moved = max(float((reference[n] - now[n]).abs().max()) for n in reference)
    return {
        "shadow": max(float((shadow[n] - reference[n]).abs().max()) for n in reference),
        "moved": moved,
        "collectives": collectives,
        "forward": teacher_forward_error(objective, recipe, shadow, config.precision),
        "replicas": replica_spread(objective, shards, parallel),
    }


def teacher_forward_error(objective: Any, recipe: Recipe, shadow: dict[str, Tensor], precision: str) -> float:
    """Return the largest difference between the teacher engine's targets and those of a plain one-rank trunk with the same weights."""
    from model.dropout import DropoutStream
    from model.init import Init
    from model.parallel import Parallel
    from model.teacher import Teacher
    from recipes.modalities.registry import MODALITIES

    alone = [dist.new_group([rank]) for rank in range(dist.get_world_size())][dist.get_rank()]
    parallel = Parallel(alone, alone, 1, 0, 1, 0)
    build_frontend = MODALITIES["text"].build_frontend(recipe)
    with torch.no_grad():
        plain = Teacher(recipe.model, recipe.teacher, build_frontend, Init(99), parallel).eval()
        for name, parameter in plain.named_parameters():
            parameter.copy_(shadow[name])
        if precision == "bf16":
            plain.bfloat16()
        batch = random_batch(recipe, 2, 7)
        assert DropoutStream().update == 0
        return float((plain(batch, None) - objective.teacher(batch, None)).abs().max())


def replica_spread(objective: Any, shards: Any, parallel: Any) -> float:
    """Return the largest difference between the TP ranks' copies of a parameter that each of them holds whole."""
    worst = 0.0
    for _, parameter in shards.named_parameters(objective.student):
        if not shards.is_split(parameter):
            mine = shards.master_shard(parameter)
            copies = [torch.empty_like(mine) for _ in range(parallel.tp_size)]
            dist.all_gather(copies, mine.contiguous(), group=parallel.tp_group)
            worst = max(worst, *(float((c - mine).abs().max()) for c in copies))
    return worst


@pytest.mark.parametrize(
    ("world_size", "tp_size", "zero", "other"),
    [
        pytest.param(1, 1, {}, {}, id="dp1"),
        pytest.param(2, 1, NO_THRESHOLD, {}, id="dp2"),
        pytest.param(2, 1, LARGE_THRESHOLD, {}, id="dp2_large_persistence", marks=pytest.mark.slow),
        pytest.param(2, 2, LARGE_THRESHOLD, {}, id="tp2_large_persistence"),
        pytest.param(4, 1, NO_THRESHOLD, NODES, id="two_copies_of_dp2"),
        pytest.param(8, 2, BY_GATHERS, NODES, id="two_copies_of_dp2_tp2", marks=pytest.mark.slow),
        pytest.param(1, 1, {}, {"megatron": {"teacher_gather": "update"}}, id="gathered_once_on_one_rank"),
    ],
)
def test_sharded_ema_is_exactly_the_unsharded_lerp_in_fp32(
    world_size: int, tp_size: int, zero: dict[str, Any], other: dict[str, Any]
) -> None:
    for seen in run_distributed(follow_ema, world_size, world_size, tp_size, zero, other, timeout=200):
        assert seen["shadow"] == 0.0
        assert seen["moved"] > 1e-3, "otherwise student and teacher are equal and the test shows nothing"
        assert seen["collectives"] == 0
        assert seen["forward"] <= 2e-5, "the teacher must compute with the weights of the last update"
        assert seen["replicas"] == 0.0


@pytest.mark.parametrize(
    ("world_size", "tp_size"),
    [
        pytest.param(1, 1, id="dp1"),
        pytest.param(2, 1, id="dp2", marks=pytest.mark.slow),
        pytest.param(2, 2, id="tp2", marks=pytest.mark.slow),
    ],
)
def test_sharded_ema_in_bf16_keeps_an_exact_fp32_shadow(world_size: int, tp_size: int) -> None:
    for seen in run_distributed(follow_ema, world_size, world_size, tp_size, LARGE_THRESHOLD, BF16, timeout=200):
        assert (seen["shadow"], seen["collectives"]) == (0.0, 0)
        assert seen["moved"] > 1e-3
        assert seen["forward"] <= 0.15, "targets are normalised, so this is bf16 rounding of unit-variance vectors"


def count_bytes(world_size: int) -> dict[str, int]:
    """Return the bytes of every kind that this rank holds between two steps."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import backward
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(world_size, 1, NO_THRESHOLD, {})
    parallel = init_parallel(1, "cpu")
    objective = build_objective(recipe, config, parallel)
    batch = random_batch(recipe, 8 // world_size, parallel.dp_rank)
    backward(objective.student, objective.forward(batch, 64).loss, 64, objective.parallel.dp_size)
    parameters = [p for _, p in shards.named_parameters(objective.student)]
    held = {"gradients": sum(shards.gradient_shard(p).nbytes for p in parameters)}
    objective.student.step()
    objective.shadow.update(0.9)
    teacher = [p for _, p in shards.named_parameters(objective.teacher)]
    assert all(p.numel() == 0 for p in [*parameters, *teacher]), "nothing may stay gathered between steps"
    return held | {
        "parameters": sum(shards.compute_shard(p).nbytes for p in parameters),
        "master": sum(shards.master_shard(p).nbytes for p in parameters),
        "moments": sum(shards.moment_shard(p, m).nbytes for p in parameters for m in shards.MOMENTS),
        "teacher": sum(shards.compute_shard(p).nbytes for p in teacher),
        "shadow": sum(s.nbytes for s in objective.shadow.shadows.values()),
        "padding": 4 * sum(-p.ds_numel % world_size for p in parameters),
    }


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_rank_holds_its_part_of_everything_up_to_padding(world_size: int) -> None:
    from recipes.plan.size import num_parameters, num_trunk_parameters

    recipe = text_tiny()
    unused_rows = 48 * recipe.model.hidden_size  # 2000 symbols in a table of 2048 rows
    student, trunk = num_parameters(recipe) + unused_rows, num_trunk_parameters(recipe) + unused_rows
    for held in run_distributed(count_bytes, world_size, world_size, timeout=200):
        slack = held.pop("padding")
        for kind, count in {
            "parameters": student,
            "master": student,
            "gradients": student,
            "moments": 2 * student,
            "teacher": trunk,
            "shadow": trunk,
        }.items():
            factor = 2 if kind == "moments" else 1
            assert 0 <= held[kind] - 4 * count / world_size <= factor * slack, (kind, held[kind], 4 * count / world_size)


def test_the_teacher_never_keeps_gathered_copies_whatever_the_ds_config_sets() -> None:
    from recipes.engine.build import _fixed_config

    given = {"zero_optimization": {"stage": 3, **LARGE_THRESHOLD, "offload_optimizer": {"device": "cpu"}}}
    zero = _fixed_config(given)["zero_optimization"]
    assert (zero["stage3_param_persistence_threshold"], zero["stage3_max_reuse_distance"]) == (0, 0)
    assert "offload_optimizer" not in zero, json.dumps(zero)


def collectives_of_a_forward(by_all_reduce: bool) -> tuple[int, int]:
    """Return how often student's and teacher's forward gather and all-reduce."""
    from model.parallel import init_parallel
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(2, 1, NO_THRESHOLD | {"stage3_use_all_reduce_for_fetch_params": by_all_reduce}, {})
    parallel = init_parallel(1, "cpu")
    objective = build_objective(recipe, config, parallel)
    with CommDebugMode() as counted:
        objective.forward(random_batch(recipe, 4, parallel.dp_rank), 1)
    counts = counted.get_comm_counts()
    return counts[torch.ops.c10d._allgather_base_], counts[torch.ops.c10d.allreduce_]


def test_weights_are_gathered_by_all_reduce_if_the_ds_config_says_so() -> None:
    (gathers, reduces), (other_gathers, other_reduces) = (run_distributed(collectives_of_a_forward, 2, key)[0] for key in (True, False))
    # a parameter that is fetched alone, without others of its module, is gathered either way
    assert other_reduces == 0 and reduces == other_gathers - gathers > gathers, (gathers, reduces, other_gathers)
