"""Bytes of the activations of one micro-batch on one rank: what the student keeps from its forward to its backward, and what is needed beside
it at the worst moment. Torch-free arithmetic from the recipe's sizes. Weights, gradients and optimizer: recipes/plan/size.py.

benchmarks/activation_memory.py compares the estimate with measured bytes. Memory that kernels take for themselves is not counted.
"""

from typing import NamedTuple

from model.activations import Storage, block_backward_bytes, block_bytes
from recipes.config import Recipe
from recipes.objective_config import Positions

VALUE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Precision -> bytes of one number of an activation."""
Parts = dict[str, float]
"""Name of a tensor -> its bytes in one micro-batch on one rank."""


class Activations(NamedTuple):
    """Bytes of one micro-batch on one rank, by tensor. Of the last two only the larger is needed at a time."""

    kept: Parts
    """What the student keeps from its forward to its backward."""
    further: Parts
    """What further networks, such as a teacher, need after the student's forward."""
    backward: Parts
    """What the first block of the backward needs."""

    @property
    def total(self) -> int:
        """Bytes at the worst moment."""
        return round(sum(self.kept.values()) + max(sum(self.further.values()), sum(self.backward.values())))


def activation_bytes(
    recipe: Recipe, storage: Storage, micro_batch_size: int, *, recomputes: bool = False, length: int | None = None
) -> Activations:
    """Return the bytes of the activations of a micro-batch.

    `recomputes`: a block keeps only its input, and the backward runs it again. `length`: that of every sample, as
    FrontendConfig.tokens_per_sample takes it; None: the longest that the recipe's data can have.
    """
    frontend, model, objective = recipe.frontend, recipe.model, recipe.objective
    own = frontend.tokens_per_sample(recipe.data.longest_sample if length is None else length)
    positions = Positions(micro_batch_size, own, frontend.num_prefix_tokens)
    S = own + frontend.num_prefix_tokens
    bias = frontend.bias_bytes(model, storage, S)
    block = _of_all(block_bytes(model, storage, S, bool(bias)), positions.total, "of a block: ")
    backward = _of_all(block_backward_bytes(model, storage, S, bool(bias)), positions.total, "")
    width = model.hidden_size * storage.value_bytes
    kept = objective.head_bytes(recipe, storage, positions)
    if objective.trains("trunk"):
        freezes = not objective.trains("features")
        kept |= _of_all(frontend.activation_bytes(model, storage, freezes_features=freezes), positions.num_samples * own, "") | bias
        kept["input of the final norm"] = positions.total * width * model.block.normalize_before
        if recomputes:
            kept["inputs of the blocks"] = model.num_layers * positions.total * width
            backward |= block
        else:
            kept |= {name: model.num_layers * size for name, size in block.items()}
    # the targets of all positions, and their copies and the predictions' at the masked ones, in float32
    targets = objective.num_teachers * positions.num_samples * own * model.hidden_size * 4
    backward["targets"] = targets * (1 + 3 * recipe.mask.largest_share(own))
    return Activations(kept, objective.further_forward_bytes(recipe, storage, positions), backward)


def _of_all(parts: Parts, num_positions: int, prefix: str) -> Parts:
    return {prefix + name: size * num_positions for name, size in parts.items()}
