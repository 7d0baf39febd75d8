"""The operators of an update under torch's profiler, and the host's time apart from the device's."""

import statistics
from collections.abc import Callable
from typing import Any

from torch.profiler import profile

from accelerator.trace import numbers_of, recorded

TOP = 15
UPDATES = 2
COPY = "aten::copy_"


def profiled(update: Callable[[], dict[str, float]], wait: Callable[[], None], *, is_cuda: bool) -> dict[str, Any]:
    """Run a few updates under the profiler. `update` runs one without waiting for the device, and returns the seconds of its parts.

    Returns, per update: `host_milliseconds` and `device_milliseconds`; device synchronisations (`device_waits`, `stream_waits`), memory
    copies and kernels, which are 0 without a CUDA device; `copy_operators`, the copies between tensors; the top `operators` by their own
    time. On CUDA the host's time is that in which it issues an update, without the profiler, and the device's that in which it is busy. On
    a CPU the device's time is that in operators, and the host's the rest: Python and DeepSpeed.
    """
    hosts = []
    for _ in range(UPDATES if is_cuda else 0):
        wait()
        hosts.append(sum(update().values()))
    profiler = recorded(update, wait, UPDATES)
    numbers, operators = numbers_of(profiler, UPDATES), operators_of(profiler, UPDATES)
    own = sum(one["milliseconds"] for one in operators)
    copies = [one for one in operators if one["name"] == COPY]
    if is_cuda:
        split = {"host_milliseconds": 1e3 * statistics.median(hosts), "device_milliseconds": numbers["busy_milliseconds"]}
    else:
        split = {"host_milliseconds": numbers["span_milliseconds"] - own, "device_milliseconds": own}
    return {
        **split,
        **numbers,
        "copy_operators": {key: sum(one[key] for one in copies) for key in ("calls", "milliseconds")},
        "operators": [one | {"percent": 100 * one["milliseconds"] / own} for one in operators[:TOP]],
    }


def operators_of(profiler: profile, number: int) -> list[dict[str, Any]]:
    """Return name, milliseconds and calls per update of every operator of torch, the longest first. The milliseconds are its own: without
    the operators that it calls, on the device if there is one, else on the CPU. `number`: updates under the profiler."""
    averages = [one for one in profiler.key_averages() if "::" in one.key and "autograd::" not in one.key]
    on_device = any(one.self_device_time_total for one in averages)
    found = [
        {
            "name": one.key,
            "milliseconds": (one.self_device_time_total if on_device else one.self_cpu_time_total) / 1e3 / number,
            "calls": one.count / number,
        }
        for one in averages
    ]
    return sorted(found, key=lambda one: -one["milliseconds"])
