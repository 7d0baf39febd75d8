"""Micro-batches on their way to the device: order, one ahead, and no copy where there is no device."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from model.batch import Batch
from recipes.data.device_feed import DeviceFeed, pinned
from tests.model.reference import bools, make_batch

CPU = torch.device("cpu")


def batch_of(number: int, size: int = 5) -> Batch:
    return make_batch(torch.full((2, size), number), bools("0" * size, "0" * size))


class Watched(DeviceFeed):
    """A feed that writes down when copies begin."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.events: list[Any] = []

    def _start(self, batch: Batch) -> None:
        self.events.append(("copy", int(batch.inputs[0, 0])))
        super()._start(batch)


def update(feed: Watched, batches: list[Batch], following: Batch | None = None) -> list[int]:
    def after() -> Batch | None:
        feed.events.append("all sent")
        return following

    numbers = []
    for batch in feed.batches(batches, after):
        numbers.append(int(batch.inputs[0, 0]))
        feed.events.append(("compute", numbers[-1]))
    return numbers


def test_the_copy_of_each_micro_batch_begins_before_the_one_ahead_of_it_is_computed() -> None:
    feed, batches = Watched(CPU), [batch_of(number) for number in range(5)]
    assert update(feed, batches[:3], batches[3]) == [0, 1, 2]
    first = ["copy 0", "copy 1", "compute 0", "copy 2", "compute 1", "compute 2", "all sent", "copy 3"]
    assert [event if isinstance(event, str) else f"{event[0]} {event[1]}" for event in feed.events] == first
    feed.events.clear()
    assert update(feed, batches[3:]) == [3, 4]
    assert feed.events == [("copy", 4), ("compute", 3), ("compute", 4), "all sent"], "the first one is there already"


def test_another_micro_batch_than_the_one_ahead_is_copied_anew() -> None:
    feed, batches = Watched(CPU), [batch_of(number) for number in range(3)]
    assert update(feed, batches[:1], batches[1]) == [0]
    assert update(feed, [batches[2], batches[1]]) == [2, 1]


def test_an_update_without_micro_batches_is_empty() -> None:
    assert list(DeviceFeed(CPU).batches([])) == []


def test_on_the_cpu_tensors_are_not_copied() -> None:
    batch = batch_of(3)
    (here,) = DeviceFeed(CPU).batches([batch])
    assert here.inputs is batch.inputs and here.masks.mask_BS is batch.masks.mask_BS and pinned(batch, CPU) is batch


def test_what_is_left_to_do_to_the_inputs_is_done_before_they_are_read() -> None:
    @dataclass(frozen=True)
    class Doubled:
        by: torch.Tensor

        def finish(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs * self.by

    batch = replace(batch_of(3), unfinished=Doubled(torch.tensor(2)))
    (here,) = DeviceFeed(CPU).batches([batch])
    assert here.inputs is here.clean_inputs and (here.inputs == 6).all() and here.unfinished is None


@pytest.mark.gpu
def test_on_a_gpu_many_micro_batches_arrive_unchanged_while_the_device_is_busy() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    feed, busy = DeviceFeed(device), torch.randn(2048, 2048, device=device)
    batches = [pinned(batch_of(number, 1_000_000), device) for number in range(12)]
    assert all(tensor.is_pinned() for batch in batches for tensor in batch.tensors() if tensor.numel())
    sums = []
    for start in range(0, 12, 3):
        following = batches[start + 3] if start < 9 else None
        for batch in feed.batches(batches[start : start + 3], lambda following=following: following):
            for _ in range(20):
                busy = busy @ busy / 50  # so that the device is behind the host when the next copies begin
            sums.append(batch.inputs.double().mean())
            del batch
    assert torch.stack(sums).tolist() == list(range(12))
