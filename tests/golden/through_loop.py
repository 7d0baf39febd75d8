"""Replay a fairseq case with training's own update: its loader, optimizer step, guard, EMA call with its schedule, and counters on the real
objective. The learning rate is constant in these cases: its schedule in a run is tested in tests/recipes/train/test_nan.py.

The replay's own loop (replay.py) shows that the parts are as published. This one shows that `train_step` combines them in that way.

Shapes: M masked positions, D hidden.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import FairseqCase, State
from compare import Report
from model_state import build_with_sgd, gather_rows, load_student, whole
from torch import Tensor

from model.batch import Batch
from model.student import take_masked
from recipes.checkpoint.layout import Counters
from recipes.checkpoint.save import CheckpointSaver
from recipes.cluster.world import World
from recipes.config import OptimConfig, Recipe
from recipes.data_config import TextDataConfig
from recipes.ds_config import EngineConfig
from recipes.engine import shards
from recipes.errors import ConfigError
from recipes.objectives.data2vec import Data2Vec
from recipes.train.bad_items import BadItems
from recipes.train.loop import train_step
from recipes.train.preempt import StopRequest
from recipes.train.saving import Saving
from recipes.train.spikes import SpikeStatistic
from recipes.train.startup import build_loader
from recipes.train.state import TrainData, TrainState
from recipes.watch.watch import Watch

NOT_INPUTS = ("pred", "target")


class GoldenData:
    """The rows of a case's steps, one after another, as the data set for training's loader. A step is one global batch. If its
    rows are not a multiple of the ranks, it is filled up with copies of the first row without a mask, which add nothing to any sum."""

    fingerprint = "golden"

    def __init__(self, golden: State, num_steps: int, multiple: int, modality: FairseqCase, recipe: Recipe) -> None:
        self._modality, self._recipe, self._rows = modality, recipe, list[State]()
        for step in range(num_steps):
            prefix = f"step{step}."
            inputs = {n.removeprefix(prefix): t for n, t in golden.items() if n.startswith(prefix) and not n.endswith(NOT_INPUTS)}
            rows = [{name: tensor[row] for name, tensor in inputs.items()} for row in range(len(inputs["mask"]))]
            unmasked = rows[0] | {"mask": torch.zeros_like(rows[0]["mask"])}
            self._rows += rows + [unmasked] * (-len(rows) % multiple)
        self.rows_per_step = len(self._rows) // num_steps
        if len(self._rows) != num_steps * (len(rows) + -len(rows) % multiple):
            raise ConfigError(
                "the steps of this case have unequal numbers of rows, but a run's batches are equal; replay it without --loop"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Return the rows in the order of the file."""
        return np.arange(len(self._rows))

    def example(self, epoch: int, index: int, group: tuple[int, ...]) -> State:
        """Return one row."""
        return self._rows[index]

    def collate(self, examples: list[State]) -> Batch:
        """Collate rows of one step."""
        return self._modality.batch(self._recipe, {name: torch.stack([row[name] for row in examples]) for name in examples[0]})

    def take_bad(self) -> list[Any]:
        """Return no bad items."""
        return []


class Recorder:
    """Records predictions and targets of each micro-batch of an update, and the gradient at the optimizer's step."""

    def __init__(self, objective: Data2Vec) -> None:
        self._objective = objective
        self.predictions_MD: list[Tensor] = []
        self.targets_MD: list[Tensor] = []
        self.gradients: dict[str, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record in this block, in which an update runs."""
        student, step = self._objective.student, self._objective.student.step
        hooks = [
            student.module.register_forward_hook(lambda module, inputs, out: self.predictions_MD.append(out.prediction_MD)),
            self._objective.teacher.module.register_forward_hook(
                lambda module, inputs, out: self.targets_MD.append(take_masked(out, inputs[0].masks.masked_index_M))
            ),
        ]

        def recorded_step() -> None:
            if student.is_gradient_accumulation_boundary():
                self.gradients = whole(self._objective, shards.gradient_shard)
            step()

        student.step = recorded_step
        try:
            yield
        finally:
            student.step = step
            for hook in hooks:
                hook.remove()


def recipe_of_case(recipe: Recipe, meta: dict[str, Any]) -> Recipe:
    """Return the case's recipe with the optimizer's numbers of its protocol. The modality's other data settings are not used."""
    numbers = meta["optimizer"]
    # Only the middle one of the three stages: the rate is constant from the first update on.
    optim = OptimConfig(lr=numbers["lr"], schedule="tri_stage", warmup_steps=0, decay_steps=0, clip_norm=numbers["clip"] or 0.0)
    return replace(recipe, optim=optim, data=TextDataConfig())


def replay_updates(
    case: FairseqCase, meta: dict[str, Any], golden: State, init: State, report: Report, *, world: World, tp_size: int, micro: int | None
) -> tuple[Data2Vec, dict[str, Tensor]]:
    """Run every update of a case by train_step. `micro`: rows of a micro-batch (default: a rank's share). Returns: the objective at the
    end, and the first update's gradient."""
    recipe = recipe_of_case(case.recipe(meta["config"], init), meta)
    dp_size = world.size // tp_size
    data = GoldenData(golden, len(meta["steps"]), dp_size * (micro or 1), case, recipe)
    recipe = replace(recipe, run=replace(recipe.run, global_batch_size=data.rows_per_step))
    micro_batch_size = micro or data.rows_per_step // dp_size
    objective, config = build_with_sgd(recipe, tp_size, micro_batch_size=micro_batch_size, lr=0.0)
    load_student(objective, case.names(recipe).to_ours(init))
    gradients: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        state = _state(recipe, config, world, objective, data, Path(folder))
        for facts in meta["steps"]:
            recorder, tokens = Recorder(objective), state.counters.tokens
            with recorder.watching():
                metrics = train_step(state, True)
            assert isinstance(metrics, dict), metrics
            gradients = gradients or recorder.gradients
            metrics["masked"] = metrics["masked_fraction"] * (state.counters.tokens - tokens)
            _compare_update(state, recorder, metrics, golden, facts, report)
            _compare_counts(state, metrics, meta, report)
        state.data.loader.close()
    return objective, gradients


def _state(recipe: Recipe, config: EngineConfig, world: World, objective: Data2Vec, data: Any, folder: Path) -> TrainState:
    """Build the state like start-up, without a run dir."""
    return TrainState(
        recipe=recipe,
        config=config,
        world=world,
        objective=objective,
        data=TrainData(build_loader(recipe, data, config.batch, objective.parallel.dp_rank), data, BadItems(len(data), 0.0)),
        counters=Counters(),
        saving=Saving(CheckpointSaver(folder, objective, world, recipe.checkpoint), recipe, {}, 0, None),
        spikes=SpikeStatistic(recipe.guard),
        stop=StopRequest(),
        watch=Watch(folder / "watch", world.rank, world.hosts, 0.0),
    )


def _compare_update(
    state: TrainState, recorder: Recorder, metrics: dict[str, Any], golden: State, facts: dict[str, Any], report: Report
) -> None:
    step = facts["step"]
    for name, rows in (("pred", recorder.predictions_MD), ("target", recorder.targets_MD)):
        report.compare(f"step{step}.{name}", gather_rows(state.objective, torch.cat(rows)), golden[f"step{step}.{name}"])
    for ours, theirs in (("loss", "loss_mean"), ("grad_norm", "grad_norm_total"), ("target_std", "target_var"), ("pred_std", "pred_var")):
        if theirs in facts:
            report.compare(f"step{step}.{ours}_relative", _number(metrics[ours] / facts[theirs]), _number(1))


def _compare_counts(state: TrainState, metrics: dict[str, Any], meta: dict[str, Any], report: Report) -> None:
    """Compare counters and schedules. The decay that train_step uses after update i is fairseq's in update i + 1."""
    step, done = metrics["step"] - 1, metrics["step"]
    decays = [facts["ema_decay_in_force"] for facts in meta["steps"]] + [meta["ema_decay_final_update"]]
    pairs = {
        "update": (state.counters.update, done),
        "samples": (state.counters.samples, done * state.recipe.run.global_batch_size),
        "masked": (metrics["masked"], meta["steps"][step]["sample_size"]),
        "lr": (metrics["lr"], meta["optimizer"]["lr"]),
        "ema_decay": (metrics["ema_decay"], decays[done]),
    }
    for name, (ours, theirs) in pairs.items():
        report.compare(f"step{step}.{name}", _number(ours), _number(theirs))


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
