"""Networks that are partitioned while they are built: every rank draws its part, and the whole is that of one process."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.distributed import run_distributed
from tests.recipes.engine.test_build import BF16, NO_THRESHOLD, resolved


def built(world_size: int, tp_size: int, other: dict[str, Any]) -> dict[str, Any]:
    """Build the objective's engines. Return how the weights differ from those of plain modules, how many values were drawn, and how often
    DeepSpeed sent a parameter."""
    from deepspeed.runtime.zero import partition_parameters

    import model.init
    from model.dropout import DropoutStream
    from model.init import Init
    from model.parallel import init_parallel
    from model.student import Student
    from recipes.engine import shards
    from recipes.modalities.registry import MODALITIES
    from recipes.objectives.registry import build_objective

    model.init.BLOCK = 256
    recipe, config = resolved(world_size, tp_size, NO_THRESHOLD, other)
    parallel, drawn, sent, beats = init_parallel(tp_size, "cpu"), list[int](), list[Any](), list[None]()
    generator = Init._generator
    Init._generator = lambda init, block: drawn.append(block) or generator(init, block)  # type: ignore[method-assign]
    partition_parameters.dist.broadcast = lambda *args: sent.append(args)
    objective = build_objective(recipe, config, parallel, alive=lambda: beats.append(None))
    mine = 256 * len(drawn)
    plain = Student(recipe.model, MODALITIES["text"].build_frontend(recipe), Init(recipe.run.seed), parallel, DropoutStream())
    expected, different = {n: p.detach() for n, p in plain.named_parameters()}, []
    for engine in (objective.student, objective.teacher):
        for name, parameter in shards.named_parameters(engine):
            first, count = shards.shard_range(parameter)
            own = expected[name].reshape(-1)[first : first + count].to(parameter.dtype)
            if not torch.equal(shards.compute_shard(parameter)[:count], own):
                different.append(name)
    parameters = sum(1 for engine in (objective.student, objective.teacher) for _ in engine.module.parameters())
    beats_once = len(beats) == parameters
    return {"different": different, "share": mine / (256 * len(drawn) - mine), "sent": len(sent), "beats": beats_once}


@pytest.mark.parametrize(("world_size", "tp_size", "other"), [(2, 1, BF16), (4, 2, {})])
def test_every_rank_draws_its_part_of_the_student_and_nothing_is_sent(world_size: int, tp_size: int, other: dict[str, Any]) -> None:
    """And the teacher, which is the student at the start, draws nothing. Under tensor parallelism, a rank draws whole rows of a matrix that
    is cut along its columns."""
    for found in run_distributed(built, world_size, world_size, tp_size, other):
        dp_size = world_size // tp_size
        assert found["different"] == [] and found["sent"] == 0 and found["beats"]
        assert found["share"] == pytest.approx(1 / dp_size, rel=0.1)


def leave_by_an_error() -> tuple[torch.dtype, torch.dtype]:
    """Return torch's default dtype while a network is built in bf16, and after its constructor has raised."""
    from model.dropout import DropoutStream
    from model.parallel import init_parallel
    from recipes.engine.build import EngineBuilder

    recipe, config = resolved(1, 1, {}, BF16)
    seen = list[torch.dtype]()

    def fail() -> nn.Module:
        seen.append(torch.get_default_dtype())
        raise ValueError("in the constructor")

    builder = EngineBuilder(config, recipe.optim, init_parallel(1, "cpu"), DropoutStream())
    with pytest.raises(ValueError, match="in the constructor"):
        builder.partitioned(fail)
    return seen[0], torch.get_default_dtype()


def test_parameters_are_allocated_in_the_dtype_of_the_engine_and_the_default_returns() -> None:
    assert run_distributed(leave_by_an_error, 1) == [(torch.bfloat16, torch.float32)]
