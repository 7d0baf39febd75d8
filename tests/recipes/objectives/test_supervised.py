"""What all supervised objectives share, on engines: the loss of an update, frozen parts, and an evaluation on any number of ranks."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model.batch import Batch, Masks, Targets
from recipes.objectives.base import Outcome
from recipes.objectives.statistics import LossStatistics
from recipes.objectives.supervised import Supervised
from recipes.settings import apply_overrides
from recipes.supervised_config import SupervisedConfig
from tests.distributed import run_distributed
from tests.launching import ROOT
from tests.recipes.data.labelled_texts import recipe_of

CLASSES = ("objective.labels=a,b,c", "optim.warmup_steps=0")


def build(*settings: str, world_size: int = 1, task: str = "classify") -> tuple[Any, Any]:
    """(recipe, objective on its engine)."""
    from model.parallel import init_parallel
    from recipes.ds_config import load_ds_config, resolve
    from recipes.objectives.registry import build_objective

    recipe = recipe_of("words", *(CLASSES if task == "classify" else CLASSES[1:]), *settings, task=task)
    content = load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json") | {
        "train_micro_batch_size_per_gpu": 2,
    }
    config = resolve(recipe, content, "test", world_size)
    return recipe, build_objective(recipe, config, init_parallel(1, "cpu"))


def random_batch(recipe: Any, size: int, seed: int = 0) -> Batch:
    """Return a batch without masks whose samples have classes, or numbers for a regression."""
    from recipes.data.text import TextExample, collate_text

    rng = np.random.default_rng(seed)
    rows = [rng.integers(4, recipe.frontend.vocab_size - 1, rng.integers(3, 12)) for _ in range(size)]
    batch = collate_text([TextExample(row, row, np.zeros(len(row), dtype=bool)) for row in rows], 12, always_padded=True)
    values = torch.from_numpy(rng.integers(0, 3, size))
    return replace(batch, targets=Targets(values if recipe.objective.kind == "classify" else values.float(), torch.arange(size)))


def rows_of(batch: Batch, indices: list[int]) -> Batch:
    """Return the samples `indices` of a batch."""
    assert batch.targets is not None and batch.padding_mask_BS is not None
    padding, targets = batch.padding_mask_BS[indices], Targets(batch.targets.values[indices], batch.targets.index_B[indices])
    return Batch(batch.inputs[indices], batch.clean_inputs[indices], Masks.of(batch.masks.mask_BS[indices]), padding, padding, 1, targets)


def losses_and_counts() -> dict[str, Any]:
    recipe, objective = build("objective.class_weights=1,2,0.5")
    whole = random_batch(recipe, 6)
    fillers = replace(whole, targets=replace(whole.targets, index_B=torch.tensor([0, 1, 2, 3, -1, -1])))
    outputs = objective.student(whole)
    losses = objective.task.losses(outputs, whole)
    found = {"whole": objective.forward(whole, 6).loss.item(), "fillers": objective.forward(fillers, 6).loss.item()}
    found |= {"sum": losses.sum().item(), "first": losses[:4].sum().item()}
    return found | {"counts": [objective.count(whole), objective.count(fillers)]}


def test_the_loss_of_a_micro_batch_is_the_sum_over_counted_samples() -> None:
    (found,) = run_distributed(losses_and_counts, 1)
    assert found["counts"] == [6, 4]
    assert found["whole"] == pytest.approx(found["sum"]) and found["fillers"] == pytest.approx(found["first"])


def evaluated(world_size: int, num_samples: int, task: str) -> tuple[dict[str, float], bool]:
    """(metrics of an evaluation with fillers as every_batch() makes them, whether the network is in training mode)."""
    recipe, objective = build("model.hidden_dropout=0.5", world_size=world_size, task=task)
    whole, share = random_batch(recipe, num_samples), -(-num_samples // world_size)
    rank = objective.parallel.dp_rank
    batches = []
    for start in range(rank * share, (rank + 1) * share, 2):
        wanted = range(start, min(start + 2, (rank + 1) * share))
        batch = rows_of(whole, [min(index, num_samples - 1) for index in wanted])
        index_B = torch.tensor([index if index < num_samples else -1 for index in wanted])
        batches.append(replace(batch, targets=replace(batch.targets, index_B=index_B)))
    return objective.evaluate(batches), objective.student.module.training


@pytest.mark.parametrize("task", ["classify", pytest.param("regress", marks=pytest.mark.slow)])
def test_an_evaluation_gives_the_same_on_any_number_of_ranks(task: str) -> None:
    """To 1e-6: 5 samples are 2 batches of 2 on the first rank, 1 of 2 and a filler on the second."""
    ((alone, is_training),) = run_distributed(evaluated, 1, 1, 5, task)
    assert is_training and {"eval_loss"} < alone.keys()
    for found, _ in run_distributed(evaluated, 2, 2, 5, task):
        assert found == pytest.approx(alone, rel=1e-6, nan_ok=True)


def test_nothing_held_out_gives_no_metrics() -> None:
    assert run_distributed(evaluated, 1, 1, 0, "classify") == [({}, True)]


def gradients(frozen_steps: int) -> list[bool]:
    """True if the trunk gets a gradient, before and after `frozen_steps` updates, after its state is restored, and with a frozen trunk."""
    _, objective = build(f"objective.frozen_steps={frozen_steps}")
    seen = [objective._trains_trunk()]
    objective.after_step(frozen_steps)
    seen.append(objective._trains_trunk())
    objective.load_state({"steps_done": frozen_steps - 1})
    return [*seen, objective._trains_trunk(), objective.state() == {"steps_done": frozen_steps - 1}]


def test_the_trunk_is_trained_after_the_first_updates_also_in_a_run_that_continues() -> None:
    assert run_distributed(gradients, 1, 3) == [[False, True, False, True]]


def test_frozen_parts_are_left_out_for_ever_or_at_first() -> None:
    recipe = recipe_of("words", *CLASSES)
    assert isinstance(recipe.objective, SupervisedConfig)
    unread = dict.fromkeys(recipe.objective.head.unread_parts(recipe.model))
    assert recipe.objective.frozen_parameters(recipe) == unread
    for setting, steps in (("objective.frozen=trunk", None), ("objective.frozen_steps=7", 7)):
        other = apply_overrides(recipe, [setting])
        assert other.objective.frozen_parameters(other) == unread | {"trunk.": steps}


def mean_of_an_update() -> dict[str, float]:
    import torch.distributed as dist

    statistics = LossStatistics()
    for loss in (1.0, 2.0):
        statistics.add(Outcome(torch.tensor(loss + dist.get_rank())))
    return statistics.reduce(dist.group.WORLD, 10, 0)


def test_the_loss_of_an_update_is_the_mean_over_all_its_samples() -> None:
    assert run_distributed(mean_of_an_update, 2) == [{"loss": 0.8}] * 2


def test_an_update_without_labels_is_explained() -> None:
    line = Supervised.nothing_counted(None, 7, 16)  # type: ignore[arg-type]
    assert line == "update 7 (16 samples) has no label that the loss can count; give labelled data"
