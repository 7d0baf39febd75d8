"""Embeddings of one rank's part of the items, batch by batch. Items that cannot be used are left out and listed. Writes nothing."""

import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recipes.data.items import Items
from recipes.data.media import BadItem, UndecodableError, bad_item
from recipes.data.progress import ItemProgress
from recipes.interop.embedding_file import Embedded
from recipes.interop.encoder import TrainedEncoder
from recipes.interop.features import batches_of
from recipes.interop.layers import Layer, Pool

BATCHES_READ_AHEAD = 4
"""So many batches of items are read before the first is computed, and then sorted by length, so that little of a batch is padding."""


@dataclass(frozen=True)
class EmbeddedPart:
    """The embeddings of one rank's items, in the order of the data."""

    rows: list[Embedded]
    bad: list[BadItem]
    """Items that were left out, because they cannot be decoded or have no tokens."""
    num_cut: int
    """Items of which the end was cut off."""
    figures: str
    """How many items, in how many seconds, with how much memory."""


def bounds_of(num_items: int, rank: int, size: int) -> tuple[int, int]:
    """Return the numbers of a rank's first item and of the one after its last. Each rank has a contiguous part; sizes differ by one at
    most."""
    return rank * num_items // size, (rank + 1) * num_items // size


def embed_part(
    encoder: TrainedEncoder,
    items: Items,
    rank: int,
    size: int,
    *,
    layer: Layer,
    pool: Pool,
    batch_size: int,
    log: Callable[[str], None],
) -> EmbeddedPart:
    """Return the embeddings of the items of rank `rank` among `size` ranks. `log` prints progress. Memory grows with the embeddings, and
    not with the items."""
    first, last = bounds_of(len(items), rank, size)
    of_ranks = f" (rank 0 of {size})" if size > 1 else ""
    progress = ItemProgress(f"embedding{of_ranks}", last - first, unit="items", log=log, show_bar=rank == 0)
    rows, bad, num_cut = list[Embedded](), list[BadItem](), 0
    for start in range(first, last, BATCHES_READ_AHEAD * batch_size):
        numbers, examples = list[int](), list[Any]()
        for number in range(start, min(last, start + BATCHES_READ_AHEAD * batch_size)):
            try:
                made = items.make(number)
            except (OSError, UndecodableError) as error:
                bad.append(bad_item(items, number, error))
                continue
            numbers.append(number)
            examples.append(made.example)
            num_cut += made.is_cut
        progress.add(min(last, start + BATCHES_READ_AHEAD * batch_size) - start - len(numbers))
        own = list[Embedded]()
        for batch in batches_of(examples, encoder.maker, batch_size):
            pooled = encoder.features([examples[one] for one in batch]).pooled(layer, pool)
            for one, vector in zip(batch, pooled, strict=True):
                own.append(Embedded(numbers[one], items.place(numbers[one]), vector.cpu().numpy()))
            progress.add(len(batch))
        rows += sorted(own, key=lambda row: row.number)
    progress.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts KiB
    return EmbeddedPart(rows, bad, num_cut, f"embedded{of_ranks} {progress}, peak memory {peak:,.0f} MiB")
