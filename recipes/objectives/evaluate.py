"""Held-out evaluation during pre-training: the objective and the monitors on a fixed set, in eval mode on both engines."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from model.batch import Batch
from model.frontends.output import Frontend, FrontendOutput
from model.parallel import Parallel
from recipes.config import Recipe
from recipes.data.loader import Dataset, eval_batches
from recipes.engine.build import Engines
from recipes.objectives import data2vec as objective
from recipes.objectives.statistics import EvaluationStatistics


def heldout_batches(recipe: Recipe, heldout: Dataset, micro_batch_size: int, parallel: Parallel) -> Iterator[Batch]:
    """This rank's share of the held-out samples. Raises: ConfigError where there are fewer than ranks."""
    return eval_batches(
        heldout,
        max_samples=recipe.run.eval_samples,
        micro_batch_size=micro_batch_size,
        group_size=recipe.data.group_size,
        dp_rank=parallel.dp_rank,
        dp_size=parallel.dp_size,
    )


@torch.no_grad()
def evaluate(
    recipe: Recipe, engines: Engines, heldout: Dataset, micro_batch_size: int, beat: Callable[[int], Any] = lambda number: None
) -> dict[str, float]:
    """eval_loss and the monitors of metrics.jsonl over run.eval_samples held-out samples; {} where none are held out.

    A collective: every rank runs the same number of forwards, and tells `beat` the number of each. The student is back in
    training mode afterwards.
    """
    batches = heldout_batches(recipe, heldout, micro_batch_size, engines.parallel)
    statistics = EvaluationStatistics()
    captured: list[Tensor] = []

    def capture(module: Frontend, inputs: tuple, output: FrontendOutput) -> None:
        captured[:] = [output.x_BSD[:, module.num_prefix_tokens :]]

    hook = engines.student.module.trunk.frontend.register_forward_hook(capture)
    engines.student.eval()
    seen = False
    for number, batch in enumerate(batches):
        beat(number)
        batch = batch.to(engines.device)
        statistics.add(batch, objective.forward(engines, batch, recipe.loss), captured[0])
        seen = True
    engines.student.train()
    hook.remove()
    return statistics.reduce(engines.parallel.dp_group) if seen else {}
