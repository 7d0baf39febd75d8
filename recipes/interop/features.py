"""What a frozen network computes of a batch: the outputs of all its layers, and one vector for each item.

Shapes: B items, N positions of the items themselves, S with prefix tokens such as CLS, D channels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.task_heads import mean_over_positions
from recipes.data.examples import ExampleMaker
from recipes.interop.layers import Layer, Pool, check_choice


@dataclass(frozen=True)
class Features:
    """The outputs of all layers of a frozen network for some items, in the order of the items. Values at padding mean nothing."""

    hidden_BSD: list[Tensor]
    """Item i is the output of block i, counted from 1, as `hidden_states` of transformers; item 0 is the input of the first block. Prefix
    tokens such as CLS stand first. float32 (B, S, D)."""
    padding_mask_BN: Tensor
    """bool (B, N), True at padding."""
    num_prefix_tokens: int
    cls_name: str | None
    """The token whose output stands for the whole item; None if there is none."""

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        return len(self.hidden_BSD) - 1

    @property
    def layers(self) -> list[Tensor]:
        """The outputs without prefix tokens: item i is that of block i, item 0 the input of the first block. Shapes: (B, N, D)."""
        return [hidden_BSD[:, self.num_prefix_tokens :] for hidden_BSD in self.hidden_BSD]

    @property
    def last(self) -> Tensor:
        """The output of the last block, without prefix tokens. Shapes: (B, N, D)."""
        return self.layers[-1]

    def pooled(self, layer: Layer = "last", pool: Pool = "mean") -> Tensor | list[Tensor]:
        """Return one vector for each item, (B, D); with pool "none" a list of tensors (positions of the item, D).

        `layer`: the number of a block, "last", or "mean", the average of all blocks. `pool`: "mean" averages the positions that are neither
        padding nor prefix; "cls" takes the output at `<s>` or CLS.
        Raises: ConfigError if there is no such layer, or no such token.
        """
        check_choice(layer, pool, self.num_layers, self.cls_name)
        if layer == "mean":
            x_BSD = torch.stack(self.hidden_BSD[1:]).mean(0)
        else:
            x_BSD = self.hidden_BSD[-1 if layer == "last" else layer]
        if pool == "cls":
            return x_BSD[:, 0].clone()  # a view would keep the outputs at all positions in memory
        x_BND = x_BSD[:, self.num_prefix_tokens :]
        if pool == "none":
            return [x_ND[keep_N] for x_ND, keep_N in zip(x_BND, ~self.padding_mask_BN, strict=True)]
        return mean_over_positions(x_BND, self.padding_mask_BN)


def joined(parts: Sequence[tuple[list[int], Features]]) -> Features:
    """Return the features of several batches as one, padded on the right to the longest item. `parts`: (numbers of the items, features).
    The numbers are 0 to B - 1, each once."""
    first = parts[0][1]
    num_items, longest = sum(len(numbers) for numbers, _ in parts), max(part.hidden_BSD[0].shape[1] for _, part in parts)
    padding_BN = first.padding_mask_BN.new_ones(num_items, longest - first.num_prefix_tokens)
    whole = [hidden.new_zeros(num_items, longest, hidden.shape[2]) for hidden in first.hidden_BSD]
    for numbers, part in parts:
        padding_BN[numbers, : part.padding_mask_BN.shape[1]] = part.padding_mask_BN
        for own, hidden in zip(whole, part.hidden_BSD, strict=True):
            own[numbers, : hidden.shape[1]] = hidden
    return Features(whole, padding_BN, first.num_prefix_tokens, first.cls_name)


def batches_of(examples: Sequence[Any], maker: ExampleMaker, batch_size: int) -> Iterator[list[int]]:
    """Yield the numbers of the examples of each batch: at most batch_size of similar length; of equal length if the modality cannot be
    padded without a change of its features."""
    length: Callable[[int], int] = lambda number: maker.length(examples[number])  # noqa: E731
    batch = list[int]()
    for number in sorted(range(len(examples)), key=length):
        if batch and (len(batch) == batch_size or not (maker.pads or length(number) == length(batch[0]))):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
