"""Profiles a few updates: kernels, copies, and waits of the host."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function, supported_activities

DEVICE_WAITS = ("cudaDeviceSynchronize",)
STREAM_WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")
TOP = 10
SPAN = "one update"


def traced(update: Callable[[], object], wait: Callable[[], None], number: int) -> dict[str, Any]:
    """Run `update` `number` times under the profiler, and return times and counts per update (kernels, copies, waits); they are 0 without
    a CUDA device. The profiler slows down the host but not the kernels, so compare `busy_milliseconds` with the time without a
    profiler."""
    return numbers_of(recorded(update, wait, number), number)


def recorded(update: Callable[[], object], wait: Callable[[], None], number: int) -> profile:
    """Run `update` `number` times under the profiler, and return the profiler."""
    activities = supported_activities() & {ProfilerActivity.CPU, ProfilerActivity.CUDA}
    wait()
    with profile(activities=activities) as profiler:
        for _ in range(number):
            with record_function(SPAN):
                update()
        wait()
    return profiler


def numbers_of(profiler: profile, number: int) -> dict[str, Any]:
    """Return what traced() returns, from a profiler that has recorded `number` updates."""
    events = profiler.profiler.kineto_results.events()
    host = [event for event in events if event.device_type() == DeviceType.CPU]
    on_device = on_the_device(events, {event.name() for event in host})
    spans = [(event.start_ns(), event.start_ns() + event.duration_ns()) for event in host if event.name() == SPAN]
    waits = [event.name() for event in host if any(start <= event.start_ns() < end for start, end in spans)]
    copies = [event for event in on_device if event.name().startswith("Memcpy")]
    kernels = [event for event in on_device if not event.name().startswith(("Memcpy", "Memset"))]
    return {
        "span_milliseconds": sum(end - start for start, end in spans) / 1e6 / number,
        "busy_milliseconds": covered((event.start_ns(), event.start_ns() + event.duration_ns()) for event in on_device) / 1e6 / number,
        "device_waits": sum(name in DEVICE_WAITS for name in waits) / number,
        "stream_waits": sum(name in STREAM_WAITS for name in waits) / number,
        "copies": len(copies) / number,
        "copies_by_kind": {kind: count / number for kind, count in Counter(event.name() for event in copies).items()},
        "kernel_calls": len(kernels) / number,
        "kernels": [
            {"name": name[:160], "milliseconds": total / 1e6 / number, "calls": calls / number}
            for name, total, calls in top((event.name(), event.duration_ns()) for event in kernels)[:TOP]
        ],
    }


def on_the_device(events: Iterable[Any], host: set[str]) -> list[Any]:
    """Return the profiler's events of kernels, copies and fills on the device. A device event with a name in `host` (names of host events)
    only marks a span of the host's program, so it is left out."""
    found = [event for event in events if event.device_type() == DeviceType.CUDA and event.duration_ns() > 0]
    return [event for event in found if event.name() not in host]


def waiting_places(update: Callable[[], object]) -> dict[str, int]:
    """Return the lines of Python at which an operation waits for the CUDA device in one update -> how often. Waits for the whole device
    (torch.cuda.synchronize) are not included."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in caught if "synchroniz" in str(one.message)]
    return dict(Counter(f"{'/'.join(Path(one.filename).parts[-2:])}:{one.lineno}" for one in waits))


def covered(spans: Iterable[tuple[int, int]]) -> int:
    """Return how long at least one of the spans (start, end) runs, in their unit. Overlaps count once."""
    busy, end = 0, 0
    for start, stop in sorted(spans):
        busy += max(0, stop - max(start, end))
        end = max(end, stop)
    return busy


def top(timed: Iterable[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """Add up (name, nanoseconds) by name, and return (name, nanoseconds, number of calls), the longest first."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, nanoseconds in timed:
        sums[name][0] += nanoseconds
        sums[name][1] += 1
    return sorted(((name, total, calls) for name, (total, calls) in sums.items()), key=lambda one: -one[1])
