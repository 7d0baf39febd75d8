"""Initial state of data2vec's networks: every tensor as published and equal on every topology, and all dropout from the stream that the
loop sets."""

import math

import pytest
import torch
from torch import Tensor

from model.frontends.text import PAD
from tests.distributed import run_distributed
from tests.recipes.engine.test_build import random_batch, resolved


def first_weights(world_size: int, tp_size: int, *settings: str) -> dict[str, Tensor]:
    """Return the full master weights of the student right after the start."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.objectives.registry import build_objective

    published = ("model.init_std=0.02", "frontend.embedding_init_std=0.02", "frontend.positions=absolute")
    recipe, config = resolved(world_size, tp_size, {}, {}, *published, *settings)
    parallel = init_parallel(tp_size, "cpu")
    objective = build_objective(recipe, config, parallel)
    return {n: shards.gather_full(p, shards.master_shard(p), parallel) for n, p in shards.named_parameters(objective.student)}


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
    """Check N(0, 0.02) for matrices and embeddings, 0 for biases, `<pad>` and unused rows, 1 for norm weights (BERT init)."""
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
    """Return seed and ranks of the objective's stream, whether all of the student's dropout draws from it, and predictions of a batch."""
    from model.dropout import Dropout, DropoutStream
    from model.parallel import init_parallel
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(world_size, tp_size, {}, {}, "model.hidden_dropout=0.5", "model.attention_dropout=0.5", "run.seed=7")
    objective = build_objective(recipe, config, init_parallel(tp_size, "cpu"))
    sites = [module for module in objective.student.module.modules() if isinstance(module, Dropout)]
    found = [module.stream for module in objective.student.module.modules() if isinstance(getattr(module, "stream", None), DropoutStream)]
    stream, prediction_MD = objective.stream, objective.student(random_batch(recipe, 2, 3)).prediction_MD.detach()
    return (stream.seed, stream.dp_rank, stream.tp_rank), bool(sites) and all(one is stream for one in found), prediction_MD


def test_dropout_has_the_runs_seed_and_the_ranks_place_and_differs_between_data_parallel_ranks_only() -> None:
    (dp0, dp1), (tp0, tp1) = run_distributed(streams, 2, 2, 1), run_distributed(streams, 2, 2, 2)
    assert [rank[0] for rank in (dp0, dp1, tp0, tp1)] == [(7, 0, 0), (7, 1, 0), (7, 0, 0), (7, 0, 1)]
    assert all(rank[1] for rank in (dp0, dp1, tp0, tp1)), "dropout draws from the stream that the loop sets"
    assert not torch.equal(dp0[2], dp1[2]), "data-parallel ranks must not drop the same activations of their samples"
    assert torch.equal(tp0[2], tp1[2]), "tensor-parallel ranks hold the same activations"
