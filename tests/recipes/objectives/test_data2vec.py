"""One micro-batch on the engines: what the loss is made of and how gradients of unequal micro-batches add up."""

from typing import Any

import torch

from model.batch import Batch
from tests.distributed import run_distributed
from tests.recipes.engine.test_build import random_batch, resolved


def split(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch."""
    mask_BS = batch.mask_BS[rows]
    index_M = mask_BS.flatten().nonzero()[:, 0]
    return Batch(batch.inputs[rows], batch.clean_inputs[rows], mask_BS, index_M, None, None, mask_BS.numel())


def gradients(micro_batch_size: int) -> dict[str, Any]:
    """Whole gradients of one update of 8 rows, with very unequal masks, cut into micro-batches."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.build import build_engines
    from recipes.objectives import data2vec as objective

    recipe, config = resolved(1, 1, {}, {"train_micro_batch_size_per_gpu": micro_batch_size})
    parallel = init_parallel(1, "cpu")
    engines = build_engines(recipe, config, parallel)
    batch = random_batch(recipe, 8, 3)
    batch.mask_BS[:4, 2:] = False  # the first rows have hardly a masked position
    batch = split(batch, slice(None))
    for start in range(0, 8, micro_batch_size):
        part = split(batch, slice(start, start + micro_batch_size))
        result = objective.forward(engines, part, recipe.loss)
        assert not result.target_BSD.requires_grad and torch.equal(result.target_BSD[part.mask_BS], result.target_MD)
        objective.backward(engines, result, batch.num_masked)
        if start + micro_batch_size == 8:
            return {n: shards.gradient_shard(p).clone() for n, p in shards.named_parameters(engines.student)}
        engines.student.step()
    raise AssertionError("no last micro-batch")


def test_micro_batches_with_few_masked_positions_do_not_weigh_more() -> None:
    whole, cut = (run_distributed(gradients, 1, size)[0] for size in (8, 2))
    for name, gradient in whole.items():
        assert torch.allclose(cut[name], gradient, rtol=1e-4, atol=1e-6), name


def loss_with_settings() -> tuple[float, float, float]:
    """The loss of a batch under a recipe's own settings, what these settings make of the same predictions, and what others would."""
    from model.config import LossConfig
    from model.loss import regression_loss
    from model.parallel import init_parallel
    from recipes.engine.build import build_engines
    from recipes.objectives import data2vec as objective

    own = LossConfig(beta=3.0, scale=0.25)
    recipe, config = resolved(1, 1, {}, {})
    engines = build_engines(recipe, config, init_parallel(1, "cpu"))
    result = objective.forward(engines, random_batch(recipe, 8, 3), own)
    ours, others = (float(regression_loss(result.prediction_MD, result.target_MD, settings)) for settings in (own, LossConfig()))
    return float(result.loss), ours, others


def test_the_loss_has_the_settings_that_it_was_given() -> None:
    ((loss, expected, other),) = run_distributed(loss_with_settings, 1)
    assert loss == expected != other
