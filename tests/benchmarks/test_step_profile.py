"""The profile of an update has its top operators, and the host's time apart from the device's."""

import time

import pytest
import torch

from step_profile import profiled


def test_operators_come_longest_first_and_python_is_the_hosts_time() -> None:
    matrix, small = torch.ones(300, 300), torch.ones(2)

    def update() -> dict[str, float]:
        matrix @ matrix
        small.copy_(small + 1)
        time.sleep(0.02)
        return {}

    seen = profiled(update, lambda: None, is_cuda=False)
    names = [one["name"] for one in seen["operators"]]
    assert names[0] == "aten::mm" and "aten::copy_" in names
    assert sum(one["percent"] for one in seen["operators"]) == pytest.approx(100, abs=0.1)
    assert seen["host_milliseconds"] > 19, "the sleep"
    assert seen["device_milliseconds"] == pytest.approx(seen["span_milliseconds"] - seen["host_milliseconds"])
    assert seen["copy_operators"]["calls"] >= 1 and seen["device_waits"] == seen["copies"] == 0
