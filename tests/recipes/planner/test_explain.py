"""The arithmetic line by line: its parts sum to the plan."""

import re

from recipes.planner.explain import explain_memory, explain_time
from tests.recipes.planner.test_run_plan import planned


def test_the_parts_of_the_memory_sum_to_each_phase() -> None:
    plan, sums = planned(), dict[str, float]()
    for line in explain_memory(plan):
        if head := re.match(r"(\w+): ([\d.]+) GiB on the device", line):
            phase = head[1]
        elif part := re.match(r" +([\d,.]+) MiB  ", line):
            sums[phase] = sums.get(phase, 0.0) + float(part[1].replace(",", ""))
    expected = [(phase.total + phase.host_total) / 2**20 for phase in plan.memory]
    assert list(sums) == ["building", "training", "saving"]
    assert all(abs(seen - size) < 0.5 for seen, size in zip(sums.values(), expected, strict=True))


def test_the_time_has_a_line_for_each_part_with_its_arithmetic() -> None:
    plan = planned()
    found = {
        match[2]: float(match[1].replace(",", "")) for line in explain_time(plan) if (match := re.match(r" +([\d,.]+) ms  ([^:]+):", line))
    }
    assert found["update"] == round(1e3 * plan.step.total, 3)
    device = sum(found[name] for name in ("products", "other kernels", "optimizer"))
    assert abs(device - 1e3 * sum(plan.step.device.values())) < 0.01
    links = found["weights of the student"] + found["weights of the teacher"] + found["gradients"]
    assert abs(links - 1e3 * plan.step.links) < 0.01
    assert any("989 TFLOP/s x efficiency 0.7 = " in line for line in explain_time(plan))
