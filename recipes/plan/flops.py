"""FLOPs of the forward and backward of one sample, by part, and of a step. Torch-free arithmetic from the recipe's sizes.

Model FLOPs are counted: what the published model does in plain torch, with nothing skipped. So the last block computes at every position,
and layer drop and drop path drop nothing. The backward of the attention has twice the products of its forward; a fused kernel that computes
the scores again does half a forward more. Only matrix products and convolutions count. A multiply-add is two FLOPs. Parts that are frozen
for the first updates only (objective.frozen_steps) are counted as trained.
"""

from recipes.config import Recipe


def sample_flops(recipe: Recipe, length: int | None = None) -> dict[str, float]:
    """Return the FLOPs of training on one sample, by part.

    The student's forward has the parts `front-end`, `projections` (queries, keys, values and output), `attention` (scores, and the mix of
    values), `feed-forward` and `head`. Its backward has the same names with ` backward` behind, and a teacher's forward with `teacher `
    before, without a head. `length`: as FrontendConfig.tokens_per_sample takes it; None: the longest that the recipe's data can have.
    """
    return _by_part(recipe, recipe.frontend.tokens_per_sample(recipe.data.longest_sample if length is None else length))


def step_flops(recipe: Recipe, num_tokens: int, num_samples: int) -> int:
    """Return the FLOPs of training on `num_tokens` positions in `num_samples` samples. Every sample is taken to have their mean length."""
    return round(num_samples * sum(_by_part(recipe, num_tokens / max(1, num_samples)).values()))


def _by_part(recipe: Recipe, num_positions: float) -> dict[str, float]:
    """Return the FLOPs of a sample of `num_positions` positions without prefix tokens."""
    model, objective = recipe.model, recipe.objective
    front = recipe.frontend.forward_flops(model, num_positions)
    blocks = model.forward_flops(num_positions + recipe.frontend.num_prefix_tokens)
    head = objective.head_flops(recipe, num_positions)
    forward = {"front-end": front.forward, **blocks, "head": head.forward}
    backward = {"front-end": front.backward(freezes_features=not objective.trains("features"))}
    backward |= {name: 2 * flops for name, flops in blocks.items()}
    if not objective.trains("trunk"):
        backward = dict.fromkeys(backward, 0.0)
    backward["head"] = head.backward
    return forward | {f"{name} backward": flops for name, flops in backward.items()} | objective.further_flops(recipe, num_positions)
