"""Runs one rank of a real run and injects a fault at one micro-batch of one update, for tests of the guards. No assertions here."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from model.frontends.pixels import normalise
from recipes.config import Recipe
from recipes.ds_config import load_ds_config, resolve
from tests.launching import tiny_recipe

ROOT = Path(__file__).parents[3]
FAULTY_UPDATE = 2
STEPS = 4
BATCH = 8
SETTINGS: dict[str, object] = {"model__hidden_dropout": 0.1, "optim__lr": 0.01, "run__max_steps": STEPS}
BF16 = {"bf16": {"enabled": True}}
PARAMETERS = {"split": "trunk.encoder.layers.0.ffn.fc1.weight", "replicated": "trunk.encoder.layers.0.ffn_norm.weight"}


@dataclass(frozen=True)
class Topology:
    """Number of ranks, tensor-parallel size and micro-batch size of a run."""

    world_size: int = 1
    tp_size: int = 1
    micro_batch_size: int = 4

    @property
    def config(self) -> dict[str, Any]:
        """Return the keys of a ds_config that set tensor-parallel size and micro-batch size."""
        return {"megatron": {"tensor_model_parallel_size": self.tp_size}, "train_micro_batch_size_per_gpu": self.micro_batch_size}


ONE, TP2, DP2 = Topology(), Topology(2, 2), Topology(2, 1, 2)
"""Each has two micro-batches per update."""


@dataclass(frozen=True)
class Fault:
    """Multiplies one tensor of a run by `factor`: the input, an activation of the student, or the gradient of a parameter that is split
    over the TP ranks or replicated on them.

    Only `rank` is affected; an input is changed on all TP ranks of its group. A NaN replaces one element of input or gradient.
    """

    kind: Literal["input", "activation", "split", "replicated"]
    micro_batch: int = 0
    rank: int = 0
    factor: float = float("nan")
    updates: range = range(FAULTY_UPDATE, FAULTY_UPDATE + 1)
    history: tuple[float, ...] = ()
    """Losses and gradient norms that are put into the spike window, as if earlier updates had been applied."""

    def install(self, state: Any) -> None:
        """Install the fault in a run that is ready to train. `state`: its TrainState."""
        stream, parallel = state.objective.stream, state.objective.parallel
        state.spikes.load({"loss": list(self.history), "grad_norm": list(self.history)})
        if self.kind == "input":
            if parallel.dp_rank == self.rank // parallel.tp_size:
                self._spoil_loader(state.data.loader)
            return
        if state.world.rank != self.rank:
            return

        def spoil(tensor: Tensor) -> Tensor:
            return self._spoil(tensor) if stream.update in self.updates and stream.micro_batch == self.micro_batch else tensor

        module = state.objective.student.module
        if self.kind == "activation":
            module.get_submodule("trunk.encoder.layers.0.ffn").register_forward_hook(lambda module, inputs, output: spoil(output))
        else:
            module.get_parameter(PARAMETERS[self.kind]).register_hook(spoil)

    def _spoil(self, tensor: Tensor) -> Tensor:
        if self.kind == "activation" or math.isfinite(self.factor):
            return tensor * self.factor
        one = torch.ones_like(tensor)
        one.view(-1)[0] = self.factor
        return tensor * one

    def _spoil_loader(self, loader: Any) -> None:
        load = loader.batches

        def batches(update: int) -> list[Any]:
            loaded = load(update)
            if update in self.updates:
                number, batch = self.micro_batch, loaded[self.micro_batch].batch
                spoiled = self._spoil(normalise(batch.inputs))
                loaded[number] = loaded[number]._replace(batch=replace(batch, inputs=spoiled, clean_inputs=spoiled))
            return loaded

        loader.batches = batches


UNDISTURBED = Fault("input", updates=range(0))
"""No fault, and no skipped update (unlike None, which leaves out FAULTY_UPDATE)."""


def prepare_pictures(folder: Path) -> Path:
    """Write made-up pictures to an existing folder and prepare them for recipe_of."""
    from recipes.modalities.registry import MODALITIES
    from tests.made_up import WRITE

    return MODALITIES["vision"].prepare(recipe_of(WRITE["vision"](folder), {}), folder / "prepared", num_processes=1)


def recipe_of(prepared: Path, settings: dict[str, object]) -> Recipe:
    """Return a recipe for pictures with these settings. Pictures are floats, so that an input can be NaN."""
    return tiny_recipe("vision", data__path=prepared, **(SETTINGS | settings))


def run_rank(
    run_dir: Path,
    prepared: Path,
    topology: Topology,
    fault: Fault | None,
    changes: dict[str, Any] | None = None,
    settings: dict[str, object] | None = None,
) -> dict[str, Any]:
    """Run one rank of a whole training run, with `fault`. If that is None, update FAULTY_UPDATE is left out, as in a run that never had
    this batch. `changes`: keys of the ds_config; `settings`: of the recipe.

    Returns a dict: all final shards by name, metrics of every step, events, exit code, and the records of follow().
    """
    from recipes.train import loop

    recipe = recipe_of(prepared, settings or {})
    content = load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json") | (changes or {}) | topology.config
    train, train_step, seen = loop.train, loop.train_step, {"rates": [], "decays": [], "draws": []}

    def watched_step(state: Any, logs: bool) -> Any:
        if fault is None and state.counters.update == FAULTY_UPDATE:
            state.counters = replace(state.counters, update=FAULTY_UPDATE + 1)
        return train_step(state, logs)

    def watched(state: Any) -> int:
        if fault:
            fault.install(state)
        else:  # the update before must not begin the exchange for the one that is left out
            peek = state.data.loader.peek
            state.data.loader.peek = lambda update: None if update == FAULTY_UPDATE else peek(update)
        follow(state.objective, seen)
        try:
            return train(state)
        finally:
            seen["shards"] = {name: shard.clone() for name, shard in every_shard(state.objective)}

    loop.train, loop.train_step = watched, watched_step
    code = loop.run(recipe, resolve(recipe, content, "test", topology.world_size), run_dir, {})
    return seen | {"code": code, **{name: read(run_dir / f"{name}.jsonl") for name in ("metrics", "events")}}


def follow(objective: Any, seen: dict[str, Any]) -> None:
    """From now on, record in `seen`: `rates`, the learning rate of each parameter group at each optimizer step; `decays`, the decay of
    each update of the teacher; `draws`, update and micro-batch at each training forward."""
    student, shadow, stream = objective.student, objective.shadow, objective.stream
    step, update = student.step, shadow.update

    def recorded_step() -> None:
        if student.is_gradient_accumulation_boundary():
            seen["rates"].append([group["lr"] for group in student.optimizer.param_groups])
        step()

    def recorded_update(decay: float) -> None:
        seen["decays"].append(decay)
        update(decay)

    student.step, shadow.update = recorded_step, recorded_update

    def record_draw(module: Any, inputs: Any) -> None:
        if module.training:  # an evaluation draws nothing
            seen["draws"].append((stream.update, stream.micro_batch))

    student.module.register_forward_pre_hook(record_draw)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def every_shard(objective: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield (KIND/NAME, tensor) for all shards of this rank: master weights, moments, compute weights of both models, EMA weights."""
    from recipes.engine import shards

    for name, parameter in shards.named_parameters(objective.student):
        yield f"master/{name}", shards.master_shard(parameter)
        yield f"student/{name}", shards.compute_shard(parameter)
        for moment in shards.MOMENTS:
            yield f"{moment}/{name}", shards.moment_shard(parameter, moment)
    for name, parameter in shards.named_parameters(objective.teacher):
        yield f"teacher/{name}", shards.compute_shard(parameter)
    for name, shadow in objective.shadow.shadows.items():
        yield f"shadow/{name}", shadow
