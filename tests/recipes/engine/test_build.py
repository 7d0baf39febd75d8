"""The engines: what each rank holds, how it starts, and that the sharded EMA is the unsharded one."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor.debug import CommDebugMode

from model.batch import Batch
from model.frontends.text import PAD
from recipes.config import Recipe, apply_overrides
from recipes.ds_config import EngineConfig, load_ds_config, resolve
from recipes.text import text_tiny
from tests.distributed import run_distributed

ROOT = Path(__file__).parents[3]
BF16 = {"bf16": {"enabled": True}}
FORWARD_SETTINGS = ("teacher.layer_norms=layer", "teacher.average_norms=")
"""No norm over time: it divides by the spread of a channel over positions, which can be small, and so magnifies rounding."""
LARGE_THRESHOLD = {"stage3_param_persistence_threshold": 10**9}
NO_THRESHOLD = {"stage3_param_persistence_threshold": 0}


def resolved(world_size: int, tp_size: int, zero: dict[str, Any], other: dict[str, Any], *settings: str) -> tuple[Recipe, EngineConfig]:
    """text_tiny on zero3_cpu.json with changes."""
    recipe = apply_overrides(text_tiny(), ["run.global_batch_size=8", "data.sequence_length=32", *settings])
    content = load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json") | other | {"megatron": {"tensor_model_parallel_size": tp_size}}
    content["zero_optimization"] = content["zero_optimization"] | zero
    return recipe, resolve(recipe, content, "test", world_size)


def random_batch(recipe: Recipe, rows: int, seed: int) -> Batch:
    """Random tokens, a third of them masked."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary, S = recipe.frontend.vocab_size, recipe.data.sequence_length
    clean_BS = torch.randint(4, vocabulary - 1, (rows, S), generator=generator)
    mask_BS = torch.rand(rows, S, generator=generator) < 0.3
    return Batch(clean_BS.masked_fill(mask_BS, vocabulary - 1), clean_BS, mask_BS, mask_BS.flatten().nonzero()[:, 0], None, None, rows * S)


def follow_ema(world_size: int, tp_size: int, zero: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """20 updates; the shadow against a full fp32 lerp over gathered masters, and the teacher's forward against a plain
    trunk with the gathered shadow as its weights."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.build import build_engines
    from recipes.objectives import data2vec as objective

    recipe, config = resolved(world_size, tp_size, zero, other, "teacher.shares=frontend", "optim.lr=0.01", *FORWARD_SETTINGS)
    parallel = init_parallel(tp_size, "cpu")
    engines = build_engines(recipe, config, parallel)
    parameters = dict(shards.named_parameters(engines.student))

    def whole(shard_of: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: shards.gather_full(parameters[n], s, parallel) for n, s in shard_of.items()}

    def masters() -> dict[str, Tensor]:
        return whole({n: shards.master_shard(parameters[n]) for n in engines.shadow.shadows})

    copied = {f"trunk.frontend.{n}" for n in engines.student.module.trunk.frontend.shared_parameters(recipe.teacher.shares)}
    reference, collectives = masters(), 0
    for step in range(20):
        batch = random_batch(recipe, 8 // parallel.dp_size, 100 * step + parallel.dp_rank)
        for micro in range(config.batch.accumulation_steps):
            engines.stream.update, engines.stream.micro_batch = step, micro
            objective.backward(engines, objective.forward(engines, batch, recipe.loss), 64)
            engines.student.step()
        with CommDebugMode() as counted:
            engines.shadow.update(0.9)
        collectives += counted.get_total_counts()
        now = masters()
        reference = {n: now[n] if n in copied else torch.lerp(reference[n], now[n], 1 - 0.9) for n in reference}
    shadow = whole(engines.shadow.shadows)
    moved = max(float((reference[n] - now[n]).abs().max()) for n in reference)
    return {
        "shadow": max(float((shadow[n] - reference[n]).abs().max()) for n in reference),
        "moved": moved,
        "collectives": collectives,
        "forward": teacher_forward_error(engines, recipe, shadow, config.precision),
        "replicas": replica_spread(engines, shards, parallel),
    }


def teacher_forward_error(engines: Any, recipe: Recipe, shadow: dict[str, Tensor], precision: str) -> float:
    """Largest difference between the teacher engine's targets and a plain one-rank trunk's on the same weights."""
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
        return float((plain(batch, None) - engines.teacher(batch, None)).abs().max())


def replica_spread(engines: Any, shards: Any, parallel: Any) -> float:
    """Largest difference between the TP ranks' copies of a parameter that each holds whole."""
    worst = 0.0
    for _, parameter in shards.named_parameters(engines.student):
        if not shards.is_split(parameter):
            mine = shards.master_shard(parameter)
            copies = [torch.empty_like(mine) for _ in range(parallel.tp_size)]
            dist.all_gather(copies, mine.contiguous(), group=parallel.tp_group)
            worst = max(worst, *(float((c - mine).abs().max()) for c in copies))
    return worst


@pytest.mark.parametrize(
    ("world_size", "tp_size", "zero"),
    [(1, 1, {}), (2, 1, NO_THRESHOLD), (2, 1, LARGE_THRESHOLD), (2, 2, LARGE_THRESHOLD)],
    ids=["dp1", "dp2", "dp2_large_persistence", "tp2_large_persistence"],
)
def test_sharded_ema_is_exactly_the_unsharded_lerp_in_fp32(world_size: int, tp_size: int, zero: dict[str, Any]) -> None:
    for seen in run_distributed(follow_ema, world_size, world_size, tp_size, zero, {}, timeout=200):
        assert seen["shadow"] == 0.0
        assert seen["moved"] > 1e-3, "the student must have left the teacher for this to mean anything"
        assert seen["collectives"] == 0
        assert seen["forward"] <= 2e-5, "the teacher must compute with the weights of the last update"
        assert seen["replicas"] == 0.0


@pytest.mark.parametrize(("world_size", "tp_size"), [(1, 1), (2, 1), (2, 2)], ids=["dp1", "dp2", "tp2"])
def test_sharded_ema_in_bf16_keeps_an_exact_fp32_shadow(world_size: int, tp_size: int) -> None:
    for seen in run_distributed(follow_ema, world_size, world_size, tp_size, LARGE_THRESHOLD, BF16, timeout=200):
        assert (seen["shadow"], seen["collectives"]) == (0.0, 0)
        assert seen["moved"] > 1e-3
        assert seen["forward"] <= 0.15, "targets are normalised, so this is bf16 rounding of unit-variance vectors"


def count_bytes(world_size: int) -> dict[str, int]:
    """Bytes of every kind that this rank holds between two steps."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.build import build_engines
    from recipes.objectives import data2vec as objective

    recipe, config = resolved(world_size, 1, NO_THRESHOLD, {})
    parallel = init_parallel(1, "cpu")
    engines = build_engines(recipe, config, parallel)
    batch = random_batch(recipe, 8 // world_size, parallel.dp_rank)
    objective.backward(engines, objective.forward(engines, batch, recipe.loss), 64)
    parameters = [p for _, p in shards.named_parameters(engines.student)]
    held = {"gradients": sum(shards.gradient_shard(p).nbytes for p in parameters)}
    engines.student.step()
    engines.shadow.update(0.9)
    teacher = [p for _, p in shards.named_parameters(engines.teacher)]
    assert all(p.numel() == 0 for p in [*parameters, *teacher]), "nothing may stay gathered between steps"
    return held | {
        "parameters": sum(shards.compute_shard(p).nbytes for p in parameters),
        "master": sum(shards.master_shard(p).nbytes for p in parameters),
        "moments": sum(shards.moment_shard(p, m).nbytes for p in parameters for m in shards.MOMENTS),
        "teacher": sum(shards.compute_shard(p).nbytes for p in teacher),
        "shadow": sum(s.nbytes for s in engines.shadow.shadows.values()),
        "padding": 4 * sum(-p.ds_numel % world_size for p in parameters),
    }


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_rank_holds_its_share_of_everything_to_the_padding(world_size: int) -> None:
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


def first_weights(world_size: int, tp_size: int, *settings: str) -> dict[str, Tensor]:
    """Whole masters of the student right after start."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.build import build_engines

    published = ("model.init_std=0.02", "frontend.embedding_init_std=0.02", "frontend.positions=absolute")
    recipe, config = resolved(world_size, tp_size, {}, {}, *published, *settings)
    parallel = init_parallel(tp_size, "cpu")
    engines = build_engines(recipe, config, parallel)
    return {n: shards.gather_full(p, shards.master_shard(p), parallel) for n, p in shards.named_parameters(engines.student)}


@pytest.mark.parametrize(("world_size", "tp_size"), [(2, 1), (2, 2)], ids=["dp2", "tp2"])
def test_every_tensor_starts_as_published_and_equal_on_every_topology(world_size: int, tp_size: int) -> None:
    alone = run_distributed(first_weights, 1, 1, 1)[0]
    for started in run_distributed(first_weights, world_size, world_size, tp_size):
        assert started.keys() == alone.keys()
        for name, tensor in started.items():
            assert torch.equal(tensor, alone[name]), name
            check_published_start(name, tensor)


def test_the_weights_follow_the_runs_seed() -> None:
    first, second = (run_distributed(first_weights, 1, 1, 1, f"run.seed={seed}")[0] for seed in (1, 2))
    drawn = {name for name, tensor in first.items() if tensor.unique().numel() > 2}
    assert len(drawn) > 10 and not any(torch.equal(first[name], second[name]) for name in drawn)


def check_published_start(name: str, tensor: Tensor) -> None:
    """N(0, 0.02) for matrices and embeddings, 0 for biases, `<pad>` and unused rows, 1 for norm weights (BERT init)."""
    if "norm" in name or name.endswith("bias"):
        assert torch.all(tensor == float("norm" in name and name.endswith("weight"))), name
        return
    rows = torch.ones(len(tensor), dtype=torch.bool)
    if name == "trunk.frontend.tokens.weight":
        rows[PAD], rows[2000:] = False, False
    if name == "trunk.frontend.positions.weight":
        rows[PAD] = False
    assert torch.all(tensor[~rows] == 0), name
    values = tensor[rows]
    sampling_error = 0.02 / math.sqrt(2 * values.numel())
    assert abs(float(values.std()) - 0.02) < 5 * sampling_error, (name, float(values.std()))
    assert abs(float(values.mean())) < 5 * 0.02 / math.sqrt(values.numel()), name


def streams(world_size: int, tp_size: int) -> tuple[tuple[int, int, int], bool, Tensor]:
    """Seed and ranks of the engines' stream; whether all of the student's dropout draws from it; predictions for one batch."""
    from model.dropout import Dropout, DropoutStream
    from model.parallel import init_parallel
    from recipes.engine.build import build_engines

    recipe, config = resolved(world_size, tp_size, {}, {}, "model.hidden_dropout=0.5", "model.attention_dropout=0.5", "run.seed=7")
    engines = build_engines(recipe, config, init_parallel(tp_size, "cpu"))
    sites = [module for module in engines.student.module.modules() if isinstance(module, Dropout)]
    found = [module.stream for module in engines.student.module.modules() if isinstance(getattr(module, "stream", None), DropoutStream)]
    stream, prediction_MD = engines.stream, engines.student(random_batch(recipe, 2, 3)).prediction_MD.detach()
    return (stream.seed, stream.dp_rank, stream.tp_rank), bool(sites) and all(one is stream for one in found), prediction_MD


def test_dropout_has_the_runs_seed_and_the_ranks_place_and_differs_between_data_parallel_ranks_only() -> None:
    (dp0, dp1), (tp0, tp1) = run_distributed(streams, 2, 2, 1), run_distributed(streams, 2, 2, 2)
    assert [rank[0] for rank in (dp0, dp1, tp0, tp1)] == [(7, 0, 0), (7, 1, 0), (7, 0, 0), (7, 0, 1)]
    assert all(rank[1] for rank in (dp0, dp1, tp0, tp1)), "the stream that the loop moves is the one that is drawn from"
    assert not torch.equal(dp0[2], dp1[2]), "data-parallel ranks must not drop the same activations of their samples"
    assert torch.equal(tp0[2], tp1[2]), "tensor-parallel ranks hold the same activations"


def test_the_teacher_never_keeps_gathered_copies_whatever_the_json_says() -> None:
    from recipes.engine.build import _teacher_config

    zero = _teacher_config({"zero_optimization": {"stage": 3, **LARGE_THRESHOLD, "offload_optimizer": {"device": "cpu"}}})[
        "zero_optimization"
    ]
    assert (zero["stage3_param_persistence_threshold"], zero["stage3_max_reuse_distance"]) == (0, 0)
    assert "offload_optimizer" not in zero, json.dumps(zero)
