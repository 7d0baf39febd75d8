"""Held-out evaluation during pre-training: the objective and the monitors on a fixed set, in eval mode on both engines."""

import torch
from torch import Tensor, nn

from recipes.config import Recipe
from recipes.data.loader import Dataset, eval_batches
from recipes.train import objective
from recipes.train.engine import Engines
from recipes.train.statistics import EvaluationStatistics


@torch.no_grad()
def evaluate(recipe: Recipe, engines: Engines, heldout: Dataset, micro_batch_size: int) -> dict[str, float]:
    """eval_loss and the monitors of metrics.jsonl over run.eval_samples held-out samples; {} where none are held out.

    A collective: every rank runs the same number of forwards. The student is back in training mode afterwards.
    """
    parallel = engines.parallel
    batches = eval_batches(
        heldout, max_samples=recipe.run.eval_samples, micro_batch_size=micro_batch_size, dp_rank=parallel.dp_rank, dp_size=parallel.dp_size
    )
    statistics = EvaluationStatistics()
    captured: list[Tensor] = []

    def capture(module: nn.Module, inputs: tuple, output: tuple[Tensor, Tensor | None]) -> None:
        captured[:] = [output[0]]

    hook = engines.student.module.trunk.frontend.register_forward_hook(capture)
    engines.student.eval()
    seen = False
    for batch in batches:
        batch = batch.to(engines.device)
        statistics.add(batch, objective.forward(engines, batch, recipe.loss), captured[0])
        seen = True
    engines.student.train()
    hook.remove()
    return statistics.reduce(parallel.dp_group) if seen else {}
