"""Rows of several texts give what each text gives in a row of its own: predictions, targets, loss, gradients and monitors.

Shapes: B batch, S sequence, M masked positions, D hidden.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.batch import Batch
from tests.distributed import run_distributed

LENGTHS = (5, 17, 24, 9, 3, 12, 24, 8, 1, 7)
CAPACITY = 24
SETTINGS: dict[str, tuple[str, ...]] = {
    "absolute positions": ("frontend.positions=absolute",),
    "relative positions": ("frontend.positions=relative", "model.block.normalize_before=true"),
}
"""Absolute positions with post-LN blocks, as published; relative ones with pre-LN blocks."""


def batches(recipe: Any) -> tuple[Batch, Batch, Tensor]:
    """Return padded rows of random texts, the same texts in packed rows, and the place of each masked position of the second batch among
    those of the first."""
    from model.masking import token_mask
    from recipes.data.packed_text import collate_rows
    from recipes.data.rows import RowPlan
    from recipes.data.text import TextExample, collate_text

    rng, vocab_size = np.random.default_rng(0), recipe.frontend.vocab_size
    examples = []
    for length in LENGTHS:
        clean_T = rng.integers(4, vocab_size - 1, length)
        examples.append(TextExample(clean_T, *token_mask(clean_T, recipe.mask, rng, vocab_size=vocab_size)))
    plan = RowPlan(np.array(LENGTHS), CAPACITY)
    members_N = plan.draw(rng).tolist()
    rows = [members_N[plan.places(row)] for row in range(len(plan))]
    assert sum(len(row) > 2 for row in rows) and len(rows) == 5
    padded = collate_text(examples, CAPACITY, always_padded=True)
    masked_of = torch.split(torch.arange(padded.masks.num_masked), [int(example.mask.sum()) for example in examples])
    packed = collate_rows([[examples[member] for member in row] for row in rows], CAPACITY)
    return padded, packed, torch.cat([masked_of[member] for member in members_N])


def compared(settings: tuple[str, ...]) -> dict[str, float]:
    """Return the largest difference of packed rows from padded ones, relative to the largest value, for each quantity and gradient."""
    from model.dropout import DropoutStream
    from model.frontends.text import TextFrontend
    from model.init import Init
    from model.parallel import init_parallel
    from model.student import Student
    from model.teacher import Teacher
    from recipes.objectives.data2vec import regress
    from recipes.objectives.statistics import EvaluationStatistics
    from tests.launching import tiny_recipe

    recipe = tiny_recipe(data__sequence_length=CAPACITY, model__num_layers=2, teacher__average_top_k_layers=2, teacher__layer_norms="layer")
    recipe = apply(recipe, settings)
    parallel, frontend = init_parallel(1, "cpu"), partial(TextFrontend, recipe.frontend)
    student = Student(recipe.model, frontend, Init(1), parallel, DropoutStream())
    teacher = Teacher(recipe.model, recipe.teacher, frontend, Init(2), parallel)
    padded, packed, place_M = batches(recipe)
    found: list[dict[str, Tensor]] = []
    for batch in (padded, packed):
        student.zero_grad()
        outcome = regress(student, teacher, batch, recipe.loss)
        outcome.loss.backward()
        statistics = EvaluationStatistics()
        features_BSD = student.trunk.frontend(batch.inputs, None, batch.padding_mask_BS, **segments_of(batch)).x_BSD
        statistics.add(batch, replace(outcome, loss=outcome.loss.detach()), features_BSD.detach())
        order_M = place_M if batch is padded else slice(None)
        found.append(
            {"prediction": outcome.prediction_MD.detach()[order_M], "target": outcome.target_MD[order_M], "loss": outcome.loss.detach()}
            | {f"gradient of {name}": weight.grad.clone() for name, weight in student.named_parameters() if weight.grad is not None}
            | {name: torch.tensor(value) for name, value in statistics.reduce(parallel.dp_group).items()}
        )
    assert set(found[0]) == set(found[1]) and packed.num_tokens == padded.num_tokens
    return {name: float((found[1][name] - value).abs().max() / value.abs().max()) for name, value in found[0].items()}


def segments_of(batch: Batch) -> dict[str, Any]:
    return {} if batch.segments is None else {"segments": batch.segments}


def apply(recipe: Any, settings: tuple[str, ...]) -> Any:
    from recipes.settings import apply_overrides

    return apply_overrides(recipe, list(settings))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_packed_rows_equal_padded_rows_within_1e_5_of_the_largest_value(settings: tuple[str, ...]) -> None:
    (differences,) = run_distributed(compared, 1, settings)
    assert {"prediction", "target", "loss", "eval_loss", "neighbour_correlation", "explained_variance"} < set(differences)
    assert any("qkv" in name for name in differences)
    assert {name: value for name, value in differences.items() if not value <= 1e-5} == {}
