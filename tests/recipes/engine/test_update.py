"""The steps of one update on any engine: the scale of the gradient compared with plain torch, learning rates, and parameters that are
frozen at first or always."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.distributed import run_distributed
from tests.recipes.engine.test_build import NO_THRESHOLD, resolved

RATE = 0.1
COUNTS = (1, 5, 2, 8)
"""The count of each micro-batch of two rows, two on each of two ranks. The whole update divides by their sum."""
STEADY = ("optim.weight_decay=0", "optim.eps=1e-12", "optim.clip_norm=0")


class BodyAndHead(nn.Module):
    """A body and a head on top of it. The body has no gradient while it is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 1)
        self.is_frozen = False

    def forward(self, x_BD: Tensor) -> Tensor:
        """Return a loss: a sum over rows."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            x_BD = self.body(x_BD).tanh()
        return self.head(x_BD).square().sum()


def trained(parallel: Any, frozen: dict[str, int | None] | None, *settings: str, world_size: int = 1, micro: int = 8) -> Any:
    """Return the engine of a BodyAndHead."""
    from model.dropout import DropoutStream
    from recipes.engine.build import EngineBuilder

    recipe, config = resolved(world_size, 1, NO_THRESHOLD, {"train_micro_batch_size_per_gpu": micro}, *STEADY, *settings)
    torch.manual_seed(3)
    return EngineBuilder(config, recipe.optim, parallel, DropoutStream()).trained(BodyAndHead, frozen)


def rows_of(number: int) -> Tensor:
    """Return the input of the micro-batch with this number, counted over all ranks."""
    return torch.randn(2, 6, generator=torch.Generator().manual_seed(number))


def gradients() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the whole gradients of an update of two micro-batches on each of two ranks, and those of plain torch on all rows at once."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import backward

    parallel = init_parallel(1, "cpu")
    engine = trained(parallel, None, world_size=2, micro=2)
    whole = partial(shards.gather_full, parallel=parallel)
    parameters, plain = dict(shards.named_parameters(engine)), BodyAndHead()
    plain.load_state_dict({n: whole(p, shards.master_shard(p)) for n, p in parameters.items()})
    for number in range(2):
        if number:
            engine.step()
        place = 2 * parallel.dp_rank + number
        backward(engine, COUNTS[place] * engine(rows_of(place)), sum(COUNTS), parallel.dp_size)
    losses = [count * plain(rows_of(place)) for place, count in enumerate(COUNTS)]
    (torch.stack(losses).sum() / sum(COUNTS)).backward()
    own = {n: whole(p, shards.gradient_shard(p)).clone() for n, p in parameters.items()}
    return own, {n: p.grad.clone() for n, p in plain.named_parameters() if p.grad is not None}


def test_an_updates_gradient_is_that_of_the_sum_of_losses_divided_by_the_count_of_the_whole_update() -> None:
    for own, expected in run_distributed(gradients, 2):
        assert own.keys() == expected.keys() and min(float(g.abs().max()) for g in expected.values()) > 1e-3
        for name, gradient in expected.items():
            assert torch.allclose(own[name], gradient, rtol=1e-5, atol=1e-7), name


def follow_a_freeze() -> list[dict[str, Any]]:
    """Take four updates; the body is frozen in the first two. Return for each update the groups' rates, their step counts before it, and
    how much it changed each parameter. Then the step counts after loading step 4, and step 1."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import backward, set_learning_rate

    engine, seen = trained(init_parallel(1, "cpu"), {"body": 2}), []
    parameters = dict(shards.named_parameters(engine))
    for done in range(4):
        before = {n: shards.master_shard(p).clone() for n, p in parameters.items()}
        engine.module.is_frozen = done < 2
        set_learning_rate(engine, RATE, done)
        backward(engine, engine(rows_of(done)), 1, 1)
        found = counts(engine)
        engine.step()
        moved = {n: (shards.master_shard(p) - before[n]).abs() for n, p in parameters.items()}
        moments = {n: float(shards.moment_shard(p, "exp_avg_sq").abs().max()) for n, p in parameters.items()}
        groups = engine.optimizer.param_groups
        seen.append({"rates": [group["lr"] for group in groups], "counts": found, "moved": moved, "moments": moments})
    for done in (4, 1):  # a resumed run has the same counts as an uninterrupted one
        shards.set_optimizer_step(engine, done)
        seen.append({"counts": counts(engine)})
    return seen


def counts(engine: Any) -> list[float]:
    """Return the step count that Adam's bias correction reads, of each flat partition."""
    return [float(state["step"]) for state in engine.optimizer.optimizer.state.values()]


def test_a_group_that_is_frozen_at_first_has_rate_0_and_counts_its_steps_from_its_own_first_one() -> None:
    (seen,) = run_distributed(follow_a_freeze, 1)
    assert [one["rates"] for one in seen[:4]] == [[RATE, 0.0], [RATE, 0.0], [RATE, RATE], [RATE, RATE]]
    assert [sorted(set(one["counts"])) for one in seen] == [[], [0.0, 1.0], [0.0, 2.0], [1.0, 3.0], [2.0, 4.0], [0.0, 1.0]]
    for number, one in enumerate(seen[:4]):
        body = {name: float(moved.max()) for name, moved in one["moved"].items() if name.startswith("body")}
        assert all((moved > 0) is (number >= 2) for moved in body.values()), (number, body)
        assert all((one["moments"][name] > 0) is (number >= 2) for name in body)
        assert all(float(moved.max()) > 0 for name, moved in one["moved"].items() if name not in body)
    first = seen[2]["moved"]["body.weight"]
    assert torch.allclose(first, torch.full_like(first, RATE), rtol=1e-3), "Adam's first step is the rate, whatever the gradient"


def scaled_rates() -> list[list[float]]:
    """Return the groups' rates before each of three updates. The head's rate has the factor 3; the body is frozen in the first two."""
    from model.parallel import init_parallel
    from recipes.engine.update import backward, set_learning_rate, step

    engine, seen = trained(init_parallel(1, "cpu"), {"body": 2}, "optim.head_lr_scale=3"), []
    for done in range(3):
        engine.module.is_frozen = done < 2
        set_learning_rate(engine, RATE * (done + 1), done)
        seen.append([group["lr"] for group in engine.optimizer.param_groups])
        backward(engine, engine(rows_of(done)), 1, 1)
        step(engine)
    return seen


def test_a_groups_rate_is_the_schedules_times_its_factor_and_0_while_it_is_frozen() -> None:
    (seen,) = run_distributed(scaled_rates, 1)
    assert seen == [pytest.approx(rates, rel=1e-12) for rates in ([3 * RATE, 0.0], [6 * RATE, 0.0], [9 * RATE, 3 * RATE])]


def test_a_group_of_another_optimizer_without_a_factor_has_the_schedules_rate() -> None:
    from recipes.engine.update import set_learning_rate

    groups: list[dict[str, Any]] = [{"lr": 1.0}, {"lr": 1.0, "lr_scale": 0.5}]
    set_learning_rate(SimpleNamespace(optimizer=SimpleNamespace(param_groups=groups)), RATE, 0)  # type: ignore[arg-type]
    assert [group["lr"] for group in groups] == [RATE, RATE / 2]


def freeze_always() -> dict[str, Any]:
    """Take one update of a module whose body is never trained. Return what trains, what changed, and what a checkpoint would hold."""
    from model.parallel import init_parallel
    from recipes.checkpoint.live import owned_shards
    from recipes.engine import shards
    from recipes.engine.update import backward, set_learning_rate

    parallel = init_parallel(1, "cpu")
    engine = trained(parallel, {"body": None}, "optim.decay_norms_and_biases=false")
    engine.module.is_frozen, parameters = True, dict(shards.named_parameters(engine))
    before = {n: shards.master_shard(p).clone() for n, p in parameters.items()}
    set_learning_rate(engine, RATE, 0)
    backward(engine, engine(rows_of(0)), 1, 1)
    engine.step()
    live: Any = SimpleNamespace(student=engine, parallel=parallel, shards=lambda: {"extra": {"body.bias": torch.ones(8)}})
    return {
        "requires_grad": {n for n, p in parameters.items() if p.requires_grad},
        "trained": {n for n, _ in shards.trained_parameters(engine)},
        "flat": sum(flat.numel() for flat in engine.optimizer.fp32_partitioned_groups_flat),
        "moved": {n for n, p in parameters.items() if not torch.equal(shards.master_shard(p), before[n])},
        "held": {key for key, _, _ in owned_shards(live)},
    }


def test_a_parameter_that_is_always_frozen_is_in_no_group_and_is_saved_without_moments() -> None:
    (seen,) = run_distributed(freeze_always, 1)
    head, body = {"head.weight", "head.bias"}, {"body.weight", "body.bias"}
    assert seen["requires_grad"] == seen["trained"] == seen["moved"] == head
    assert seen["flat"] == 4 + 1, "only the head"
    moments = {f"{kind}/{name}" for kind in ("exp_avg", "exp_avg_sq") for name in head}
    assert seen["held"] == {f"master/{name}" for name in head | body} | moments | {"extra/body.bias"}


@pytest.mark.parametrize("decays_all", [True, False])
def test_groups_follow_weight_decay_and_frozen_steps_and_contain_every_parameter(decays_all: bool) -> None:
    from recipes.config import OptimConfig
    from recipes.engine.build import parameter_groups

    module = BodyAndHead()
    for parameter in module.parameters():
        parameter.ds_shape, parameter.data = parameter.shape, parameter.data.flatten()  # as in shards
    groups = parameter_groups(module, OptimConfig(weight_decay=0.5, decay_norms_and_biases=decays_all), {"head": 7})
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found = [([names[id(p)] for p in group["params"]], group["weight_decay"], group["frozen_steps"]) for group in groups]
    if decays_all:
        assert found == [(["body.weight", "body.bias"], 0.5, 0), (["head.weight", "head.bias"], 0.5, 7)]
    else:
        assert found == [(["body.weight"], 0.5, 0), (["body.bias"], 0.0, 0), (["head.weight"], 0.5, 7), (["head.bias"], 0.0, 7)]


def gradients_of_copies() -> tuple[bool, bool]:
    """Return whether this rank, of four that hold two copies of the model, has gradients before and after they are cleared."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import add_up_replicas, backward, clear_gradients

    parallel = init_parallel(1, "cpu", num_replicas=2)
    engine = trained(parallel, None, world_size=4, micro=2)
    backward(engine, engine(rows_of(parallel.dp_rank)), 1, parallel.shard_size)
    add_up_replicas(engine, parallel)
    before = bool(shards.gradient_buffer(engine).any())
    clear_gradients(engine, parallel)
    return before, bool(shards.gradient_buffer(engine).any())


def test_copies_of_the_model_keep_no_gradient_that_would_be_multiplied_in_the_next_update() -> None:
    assert run_distributed(gradients_of_copies, 4) == [(True, False)] * 4
