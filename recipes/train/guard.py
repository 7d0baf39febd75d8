"""When a run must stop because it learns nothing any more. Finite and spike guards before the step are not here yet."""

from typing import Any

from recipes.config import Recipe
from recipes.errors import TrainingBroken


def check_skips(recipe: Recipe, step: int, skipped_in_a_row: int) -> None:
    """Raises: TrainingBroken where no update could be applied for guard.max_skipped_in_a_row global batches."""
    if skipped_in_a_row >= recipe.guard.max_skipped_in_a_row:
        raise TrainingBroken(
            f"{skipped_in_a_row} updates in a row had a non-finite gradient at step {step}; look at the skip events in events.jsonl and at "
            "grad_norm before them, then lower optim.lr or leave fp16 for bf16"
        )


def check_collapse(recipe: Recipe, metrics: dict[str, Any]) -> None:
    """Raises: TrainingBroken where the loss is not finite or, after guard.after_steps, a std is below fairseq's threshold
    (data2vec_audio.py: min_target_var 0.1 and min_pred_var 0.01, which are stds)."""
    guard, step = recipe.guard, metrics["step"]
    if not metrics["loss"] < float("inf"):
        raise TrainingBroken(
            f"loss is {metrics['loss']} at step {step}; look at grad_norm and lr in metrics.jsonl, then lower optim.lr "
            "or lengthen optim.warmup_steps"
        )
    if step <= guard.after_steps:
        return
    for name, least in (("target_std", guard.min_target_std), ("pred_std", guard.min_pred_std)):
        if metrics[name] < least:
            raise TrainingBroken(
                f"collapsed at step {step}: {name} {metrics[name]:.4f} is below {least}; look at {name} and target_rank in "
                "metrics.jsonl, then lower optim.lr, lengthen optim.warmup_steps or raise teacher.ema_decay"
            )
