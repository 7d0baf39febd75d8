"""Events of the profiler are summed by time and by name."""

from collections import namedtuple

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import DeviceType

from accelerator.trace import covered, on_the_device, top, traced


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20))))
def test_covered_counts_each_moment_once(spans: list[tuple[int, int]]) -> None:
    wanted = {moment for start, length in spans for moment in range(start, start + length)}
    assert covered((start, start + length) for start, length in spans) == len(wanted)


def test_the_longest_come_first_with_all_their_calls() -> None:
    assert top([("add", 5), ("matmul", 7), ("add", 4)]) == [("add", 9, 2), ("matmul", 7, 1)]


def test_a_span_of_the_host_does_not_count_as_a_kernel() -> None:
    event = namedtuple("event", ("kind", "title", "length"))
    event.device_type, event.name, event.duration_ns = (lambda one: one.kind), (lambda one: one.title), (lambda one: one.length)
    events = [
        event(DeviceType.CUDA, "add", 3),
        event(DeviceType.CUDA, "Optimizer.step#AdamW.step", 9),
        event(DeviceType.CPU, "aten::add", 2),
    ]
    assert [one.title for one in on_the_device(events, {"aten::add", "Optimizer.step#AdamW.step"})] == ["add"]


def test_without_a_device_there_are_no_kernels() -> None:
    matrix = torch.ones(8, 8)
    seen = traced(lambda: matrix @ matrix, lambda: None, 3)
    assert seen["busy_milliseconds"] == seen["copies"] == seen["device_waits"] == seen["kernel_calls"] == 0 and seen["kernels"] == []
