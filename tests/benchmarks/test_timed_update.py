"""The update that is timed is training's own: after five of them the weights are those of five steps of the training loop."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from step_recipe import build_recipe, random_batch
from tests.distributed import run_distributed

MODALITIES = {"text": 24, "speech": 1, "vision": 0}
UPDATES, SAMPLES = 5, 2
NARROW = [f"model.{size}" for size in ("num_layers=2", "hidden_size=16", "ffn_hidden_size=32", "num_attention_heads=2")]
SMALL = [*NARROW, "teacher.average_top_k_layers=2", "optim.warmup_steps=3", "optim.lr=0.01"]
SMALL_FRONTEND = {
    "text": ["frontend.vocab_size=99"],
    "speech": ["frontend.conv_dim=8", "frontend.pos_conv_groups=2"],
    "vision": ["frontend.image_size=32", "frontend.patch_size=8", "mask.num_patches=9", "mask.min_block=2", "mask.max_block=16"],
}


def small_recipe(modality: str) -> Any:
    """Return the published recipe in a small size, with dropout, and a batch of the benchmark."""
    from recipes.settings import apply_overrides

    recipe = build_recipe(f"{modality}_base", batch=SAMPLES, length=MODALITIES[modality])
    recipe = apply_overrides(recipe, [*SMALL, *SMALL_FRONTEND[modality]])
    return recipe, random_batch(recipe, SAMPLES, MODALITIES[modality])


def weights_of(objective: Any) -> dict[str, Tensor]:
    """Return copies of the student's float32 weights and of the teacher's."""
    from recipes.engine import shards

    student = {name: shards.master_shard(weight).clone() for name, weight in shards.named_parameters(objective.student)}
    return student | {f"teacher {name}": weight.clone() for name, weight in objective.shadow.shadows.items()}


def trained(recipe: Any, config: Any, world: Any, batch: Any, *, objective: Any, folder: Path) -> dict[str, Tensor]:
    """Do the updates by the training loop's train_step, whose loader gives `batch` each time. Return the weights."""
    from recipes.checkpoint.layout import Counters
    from recipes.checkpoint.save import CheckpointSaver
    from recipes.data.loader import LoadedBatch
    from recipes.train.bad_items import BadItems
    from recipes.train.loop import train_step
    from recipes.train.preempt import StopRequest
    from recipes.train.saving import Saving
    from recipes.train.spikes import SpikeStatistic
    from recipes.train.state import TrainData, TrainState
    from recipes.watch.watch import Watch

    loader: Any = SimpleNamespace(
        batches=lambda update: [LoadedBatch(batch, [])], first_of=lambda update: None, peek=lambda update: None, wait_seconds=0.0
    )
    state = TrainState(
        recipe=recipe,
        config=config,
        world=world,
        objective=objective,
        data=TrainData(loader, [], BadItems(SAMPLES, 0.0)),  # type: ignore[arg-type]
        counters=Counters(),
        saving=Saving(CheckpointSaver(folder, objective, world, recipe.checkpoint), recipe, {}, 0, None),
        spikes=SpikeStatistic(recipe.guard),
        stop=StopRequest(),
        watch=Watch(folder / "watch", world.rank, world.hosts, 0.0),
    )
    for _ in range(UPDATES):
        assert isinstance(train_step(state, True), dict), "an update was skipped"
    return weights_of(objective)


def farthest(modality: str, folder: Path) -> float:
    """For a new rank: return the largest difference of any weight after the updates of the benchmark and of training."""
    from model.parallel import init_parallel
    from recipes.cluster.world import join_world
    from recipes.ds_config import SHIPPED, load_ds_config, resolve
    from recipes.objectives.registry import build_objective
    from timed_update import EngineSteps

    torch.set_num_threads(1)
    recipe, batch = small_recipe(modality)
    path = SHIPPED / "zero3_cpu.json"
    config = resolve(recipe, load_ds_config(path) | {"train_micro_batch_size_per_gpu": SAMPLES}, str(path), 1)
    world, parallel = join_world(), init_parallel(1, "cpu")
    theirs = trained(recipe, config, world, batch, objective=build_objective(recipe, config, parallel), folder=folder)
    steps = EngineSteps(recipe, build_objective(recipe, config, parallel), batch, world)
    before = weights_of(steps.objective)
    for _ in range(UPDATES):
        steps.update()
    ours = weights_of(steps.objective)
    assert max(float((ours[name] - before[name]).abs().max()) for name in ours) > 1e-3, "nothing was learned"
    assert ours.keys() == theirs.keys(), "other weights"
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("modality", MODALITIES)
def test_five_timed_updates_give_the_weights_of_five_steps_of_training_to_1e_6(modality: str, tmp_path: Path) -> None:
    assert run_distributed(farthest, 1, modality, tmp_path) == [pytest.approx(0.0, abs=1e-6)]


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_batch_has_the_recipes_own_mask_and_no_padding(modality: str) -> None:
    recipe, batch = small_recipe(modality)
    assert batch.padding_mask_BS is None and batch.clean_padding_mask_BS is None
    masks = batch.masks.mask_BS
    assert batch.num_tokens == masks.numel(), "every position is a token"
    share = batch.masks.num_masked / masks.numel()
    asked = recipe.mask.num_patches / masks.shape[1] if modality == "vision" else recipe.mask.prob
    assert 0.5 * asked < share <= asked + 0.1, "spans that overlap cover less"
