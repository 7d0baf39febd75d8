"""The exchange of a few whole numbers between all ranks for each update, which travels while the update before is computed. What the
numbers mean stands in recipes/train/loop.py."""

import torch
import torch.distributed as dist

from recipes.cluster.world import build_control_group


class Agreement:
    """Sums of numbers over all ranks, one exchange for each update. Every rank begins and takes each exchange once, in the order of
    updates. Ranks may begin one at different times, before or after other collectives: the exchanges have a process group of their own.
    """

    def __init__(self) -> None:
        """Make the process group, on the host; all ranks must call this together."""
        self._group = build_control_group()
        self._begun: tuple[int, torch.Tensor, dist.Work] | None = None
        self._num_numbers = 0
        self.num_taken = 0
        """Exchanges taken so far, the same on all ranks."""

    def is_begun(self, update: int) -> bool:
        """True if this rank has begun the exchange for `update`."""
        return self._begun is not None and self._begun[0] == update

    def begin(self, update: int, numbers: list[int]) -> None:
        """Send this rank's numbers for `update`, without waiting for the other ranks."""
        assert self._begun is None, "take() the exchange before"
        sums = torch.tensor(numbers, dtype=torch.int64)
        work = dist.all_reduce(sums, group=self._group, async_op=True)
        assert work is not None
        self._begun, self._num_numbers = (update, sums, work), len(numbers)

    def take(self) -> list[int]:
        """Return the sums of the exchange that was begun. Waits until all ranks have begun it."""
        assert self._begun is not None, "begin() it first"
        (_, sums, work), self._begun = self._begun, None
        work.wait()
        self.num_taken += 1
        return sums.tolist()

    def close(self) -> None:
        """Take the exchange for an update that will not come, which some ranks may have begun. All ranks must call this together, before
        the process groups are destroyed."""
        if self.num_taken and self._begun is None:
            self.begin(-1, [0] * self._num_numbers)
        if self._begun is not None:
            self.take()
