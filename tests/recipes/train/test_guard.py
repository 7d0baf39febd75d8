"""A run that learns nothing any more stops, names the step, and says what to look at; a healthy one goes on."""

import pytest

from recipes.config import apply_overrides
from recipes.errors import TrainingBroken
from recipes.text import text_base
from recipes.train.guard import check_collapse, check_skips

RECIPE = apply_overrides(text_base(), ["guard.after_steps=100", "guard.min_target_std=0.1", "guard.min_pred_std=0.01"])
HEALTHY = {"step": 200, "loss": 1.0, "target_std": 0.11, "pred_std": 0.011}


def test_a_healthy_run_goes_on() -> None:
    check_collapse(RECIPE, HEALTHY)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"target_std": 0.09},
            r"collapsed at step 200: target_std 0\.0900 is below 0\.1; look at target_std and target_rank in metrics\.jsonl",
        ),
        ({"pred_std": 0.009}, r"collapsed at step 200: pred_std 0\.0090 is below 0\.01"),
        ({"loss": float("nan")}, r"loss is nan at step 200; look at grad_norm and lr"),
        ({"loss": float("inf")}, r"loss is inf at step 200"),
        ({"loss": float("nan"), "step": 1}, r"loss is nan at step 1"),
    ],
)
def test_collapse_and_a_loss_that_is_no_number_stop_the_run(change: dict, complaint: str) -> None:
    with pytest.raises(TrainingBroken, match=complaint) as caught:
        check_collapse(RECIPE, HEALTHY | change)
    assert "\n" not in str(caught.value)


def test_the_first_steps_may_be_flat() -> None:
    check_collapse(RECIPE, HEALTHY | {"step": 100, "target_std": 0.0, "pred_std": 0.0})


def test_thresholds_are_fairseqs() -> None:
    guard = text_base().guard
    assert (guard.min_target_std, guard.min_pred_std) == (0.1, 0.01)


def test_a_run_that_skips_every_update_ends_and_one_that_skips_a_few_goes_on() -> None:
    recipe = RECIPE
    check_skips(recipe, 7, recipe.guard.max_skipped_in_a_row - 1)
    with pytest.raises(TrainingBroken, match="50 updates in a row had a non-finite gradient at step 7"):
        check_skips(recipe, 7, recipe.guard.max_skipped_in_a_row)
