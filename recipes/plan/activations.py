"""Bytes of the activations of one micro-batch on one rank: what the student keeps from its forward to its backward, and what is needed
beside it at the worst moment. Torch-free arithmetic from the recipe's sizes. Weights, gradients and optimizer: recipes/plan/size.py.

benchmarks/activation_memory.py compares the estimate with measured bytes. Memory that kernels take for themselves is not counted.
"""

from typing import NamedTuple

from model.activations import Storage, block_backward_bytes, block_bytes
from recipes.config import Recipe
from recipes.objective_config import MicroBatchShape

VALUE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Precision -> bytes of one number of an activation."""
Parts = dict[str, float]
"""Name of a tensor -> its bytes in one micro-batch on one rank."""


class Activations(NamedTuple):
    """Bytes of one micro-batch on one rank, by tensor, at three moments. The one that needs most counts."""

    kept: Parts
    """What the student keeps from its forward to its backward."""
    further: Parts
    """What further networks, such as a teacher, need after the student's forward."""
    backward: Parts
    """What the first block of the backward, which is the last of the network, needs beside `kept`."""
    later: Parts
    """What is alive later in the backward, when the head has freed what it kept: at its end, or, if blocks run again, in the next block."""

    in_forward: Parts
    """What the last block has in the student's forward beside `kept`, if it is run again in the backward and so keeps nothing of it."""

    @property
    def total(self) -> int:
        """Bytes at the worst moment."""
        kept, further, backward, later, in_forward = (sum(parts.values()) for parts in self)
        return round(max(kept + further, kept + backward, later, kept + in_forward))


def micro_batch_shape(recipe: Recipe, micro_batch_size: int, length: int | None = None) -> MicroBatchShape:
    """Return the positions of a micro-batch. `length`: that of every sample, as FrontendConfig.tokens_per_sample takes it; None: the
    longest that the recipe's data can have."""
    own = recipe.frontend.tokens_per_sample(recipe.data.longest_sample if length is None else length)
    return MicroBatchShape(micro_batch_size, own, recipe.frontend.num_prefix_tokens)


def activation_bytes(
    recipe: Recipe,
    storage: Storage,
    micro_batch_size: int,
    *,
    recomputes: bool = False,
    as_trained: bool = False,
    length: int | None = None,
) -> Activations:
    """Return the bytes of the activations of a micro-batch.

    `recomputes`: a block keeps only its input, and the backward runs it again. `as_trained`: the trunk is counted as if it were trained,
    also if it is frozen. `length`: that of every sample, as
    FrontendConfig.tokens_per_sample takes it; None: the longest that the recipe's data can have.
    """
    frontend, model, objective = recipe.frontend, recipe.model, recipe.objective
    positions = micro_batch_shape(recipe, micro_batch_size, length)
    own = positions.own
    S = own + frontend.num_prefix_tokens
    bias, width = frontend.bias_bytes(model, storage, S), model.hidden_size * storage.value_bytes
    block = _of_all(block_bytes(model, storage, S, bool(bias)), positions.total, "of a block: ")
    in_block = _of_all(block_backward_bytes(model, storage, S, bool(bias)), positions.total, "")
    # float32: the targets of all positions, and at the masked ones those and the predictions
    targets = objective.num_teachers * positions.num_samples * own * model.hidden_size * 4
    backward = in_block | {"targets and predictions": targets * (1 + 2 * recipe.mask.largest_share(own))}
    kept, later = objective.head_bytes(recipe, storage, positions), Parts()
    if as_trained or objective.trains("trunk"):
        freezes = not objective.trains("features")
        front = _of_all(frontend.activation_bytes(model, storage, freezes_features=freezes), positions.num_samples * own, "") | bias
        table = frontend.table_size(model) / storage.tp_size * storage.value_bytes
        later = front | {"gradient of the table of embeddings": table, "gradient of the embedded input": positions.total * width}
        kept |= front
        share = objective.last_block_share(recipe, positions)
        last = _of_all(block_bytes(model, storage, S, bool(bias), share), positions.total, "of a block: ")
        kept["input of the final norm"] = share * positions.total * model.hidden_size * storage.norm_bytes * model.block.normalize_before
        if recomputes:
            inputs = {"inputs of the blocks": model.num_layers * positions.total * width}
            kept |= inputs
            backward |= last
            later = max(later, front | inputs | block | in_block, key=lambda parts: sum(parts.values()))
        else:
            kept |= {name: (model.num_layers - 1) * size + last[name] for name, size in block.items()}
    return Activations(kept, objective.further_forward_bytes(recipe, storage, positions), backward, later, block if recomputes else {})


def _of_all(parts: Parts, num_positions: int, prefix: str) -> Parts:
    return {prefix + name: size * num_positions for name, size in parts.items()}
