"""Items (files or rows of the data set) that could not be decoded while training. All ranks share the same list, and the run ends if the
list is too long."""

from collections.abc import Callable, Collection
from typing import Any

import torch.distributed as dist

from recipes.data.loader import LoadedBatch, UpdateLoader
from recipes.data.media import BadItem, allowed_bad, format_bad_items
from recipes.errors import ConfigError, UnusableData


class BadItems:
    """The distinct items (files or rows of the data set) that a run could not decode so far."""

    def __init__(self, num_items: int, max_fraction: float, removed: Collection[str] = ()) -> None:
        """Begin with an empty list. At most `max_fraction` of the data set's `num_items` samples may be bad. `removed`: bad items of
        earlier launches whose files the user has removed since; they are not counted."""
        self._removed = removed
        self._num_items, self._max_fraction = num_items, max_fraction
        self._known: dict[str, BadItem] = {}
        self._new: list[BadItem] = []
        self._error: ConfigError | None = None

    def load(self, loader: UpdateLoader, update: int) -> list[LoadedBatch]:
        """Return this rank's micro-batches of an update; [] if they cannot be loaded.

        Undecodable items and the loading error are kept until agree() sends them to the other ranks."""
        return self._kept(loader.batches, update) or []

    def peek(self, loader: UpdateLoader, update: int) -> list[LoadedBatch] | None:
        """Do the same if the batches are ready; else return None. Does not wait."""
        return self._kept(loader.peek, update)

    def _kept(self, read: Callable[[int], list[LoadedBatch] | None], update: int) -> list[LoadedBatch] | None:
        try:
            loaded = read(update)
        except ConfigError as error:
            self._error = error
            return []
        self.note([item for batch in loaded or [] for item in batch.bad])
        return loaded

    def note(self, items: list[BadItem]) -> None:
        """Add bad items that this rank found outside of load(), such as in an evaluation, unless they are listed already. agree() sends
        them to the other ranks."""
        listed = {*self._known, *self._removed, *(item.where for item in self._new)}
        self._new += [item for item in items if item.where not in listed]

    @property
    def num_new(self) -> int:
        """Number of items and errors that this rank has not yet sent to the others."""
        return len(self._new) + (self._error is not None)

    def summary(self) -> str:
        """Return one line with the number of bad items that agree() has collected from all ranks; "" if there are none."""
        if not self._known:
            return ""
        count, item = len(self._known), next(iter(self._known.values()))
        items = "1 item could not be decoded and was" if count == 1 else f"{count:,} items could not be decoded and were"
        return f"{items} replaced, such as {item.where}: {item.reason}; events.jsonl names each"

    def agree(self, group: dist.ProcessGroup, report: Callable[[BadItem], Any]) -> None:
        """Exchange the new items over `group` (a collective). Call `report` once per item, in the same order on every rank.

        Raises: UnusableData on every rank, if the run has more bad items than allowed or if a rank could not load its batches.
        """
        gathered: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(gathered, (self._new, self._error), group=group)
        self._new = []
        for item in sorted({item.where: item for items, _ in gathered for item in items}.values()):
            if item.where not in self._known:
                self._known[item.where] = item
                report(item)
        for _, error in gathered:
            if error is not None:
                raise UnusableData(str(error))
        num_bad, num_items, allowed = len(self._known), self._num_items, allowed_bad(self._num_items, self._max_fraction)
        if num_bad > allowed:
            raise UnusableData(
                f"{num_bad} of {num_items} items cannot be decoded, more than data.max_bad_fraction {self._max_fraction:g} allows "
                f"({allowed}): {format_bad_items(list(self._known.values()))}; fix or remove them and give "
                f"the same command again, or --set data.max_bad_fraction={min(1.0, num_bad / num_items + 0.005):.2f}"
            )
