"""Who falls out: every kind of breakage is named with its node, nobody else is, and slowness follows the median."""

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.cluster.preflight.compare import DISK_FLOOR_SECONDS, SLOWER, Attendance, judge, shown_devices, typical
from recipes.cluster.preflight.facts import ALL_REDUCE, EXCHANGE, RUN_DIR, SHARED_MEMORY, TEMPORARY, Device, Facts
from tests.nodes import node, nodes

GPU = Device("H100", 700.0, 0.99)
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "a measurement": ({"errors": {"matmul": "uncorrectable ECC error"}}, "matmul: uncorrectable ECC error; leave the node out"),
    "an unknown one": ({"errors": {"versions": "Stale file handle"}}, "versions: Stale file handle; mend that, or leave the node out"),
    "a version": ({"versions": {"torch": "2.11.0"}}, "torch 2.11.0, on 3 of 4 nodes 2.13.0; install the same from constraints.txt"),
    "the code": (
        {"versions": {"checkout": "fedcba9876543210"}},
        "checkout fedcba987654, on 3 of 4 nodes 0123456789ab; let all nodes see one checkout",
    ),
    "devices": ({"devices": [GPU] * 7}, "devices 7 x H100, on 3 of 4 nodes cpu; see nvidia-smi there"),
    "no room": ({"free_bytes": {RUN_DIR: 2**28}}, "0.25 GiB free on the run dir's disk, at least 1 needed; name another --run-di"),
    "no run di": ({"errors": {RUN_DIR: "Permission denied"}}, "run dir: Permission denied; name a --run-dir that you may write to"),
    "its own run di": ({"sees_first": False}, "the run dir is not the one that node-1 sees; name a --run-dir on a file system that all"),
    "a lock": ({"stale_locks": ["/c/shm/lock"]}, "a killed build left /c/shm/lock, and the next one waits for it for ever; rm /c/shm/lock"),
}
DOUBTFUL: dict[str, tuple[dict[str, Any], str]] = {
    "matmul": ({"devices": [Device("cpu", 0.05, None)]}, "matmul 2.0x slower than the median, 0.05 TFLOP/s; leave the node out"),
    "network": (
        {"gb_per_second": {EXCHANGE: 0.25}},
        "exchange with two others 4.0x slower than the median, 0.25 GB/s; look at its network",
    ),
    "disk": ({"disk_seconds": 0.2}, "run dir 20.0x slower than the median, 200 ms for 1 MiB; look at its mount"),
    "ahead": ({"seconds_ahead": 90.0}, "clock 90.0 s ahead of node-1's; start its time service"),
    "behind": ({"seconds_ahead": -2.5}, "clock 2.5 s behind node-1's; start its time service"),
    "temporary": ({"free_bytes": {TEMPORARY: 3 * 2**20}}, "temporary folder: 3.0 MiB free, less than 64; remove what is left there"),
    "shared memory": ({"free_bytes": {SHARED_MEMORY: 0}}, "/dev/shm: 0.0 MiB free, less than 64; remove what is left there"),
}


SHOWN = {"host", "num_cores"}
"""Facts that are only shown: the name, and cores, which a job may have more of on one node than on another."""


def test_every_fact_that_a_node_tells_is_judged() -> None:
    cases = [changes for changes, _ in (*BROKEN.values(), *DOUBTFUL.values())]
    assert {fact for changes in cases for fact in changes} == {field.name for field in fields(Facts)} - SHOWN


def verdict_on(number: int, **odd: dict[str, Any]) -> tuple[list[str], list[str]]:
    return judge(Attendance(nodes(number, **odd)))


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_on_one_node_is_an_error_of_that_node_alone(case: str) -> None:
    changes, complaint = BROKEN[case]
    (error,), warnings = verdict_on(4, node_3=changes)
    assert error.startswith(f"node-3: {complaint}") and not warnings


@pytest.mark.parametrize("case", DOUBTFUL)
def test_what_is_doubtful_on_one_node_is_a_warning_of_that_node_alone(case: str) -> None:
    changes, complaint = DOUBTFUL[case]
    errors, (warning,) = verdict_on(4, node_3=changes)
    assert not errors and warning.startswith(f"node-3: {complaint}")


@given(st.integers(1, 9))
def test_equal_nodes_are_fit(number: int) -> None:
    assert verdict_on(number) == ([], [])


def test_one_node_is_compared_with_nothing() -> None:
    alone = {"disk_seconds": 9.0, "devices": [Device("cpu", 1e-6, None)], "gb_per_second": {EXCHANGE: 1e-6}}
    assert verdict_on(1, node_1=alone) == ([], [])


def test_memory_of_a_device_that_somebody_uses_is_named() -> None:
    devices = [GPU, Device("H100", 700.0, 0.6)]
    errors, (warning,) = verdict_on(2, node_1={"devices": devices}, node_2={"devices": [GPU, GPU]})
    assert not errors and warning == "node-1: device 1: 60% of its memory free; see nvidia-smi for who has the rest"


def test_nodes_with_the_same_trouble_share_a_line_and_those_of_a_host_have_ranks() -> None:
    trouble = {"versions": {"torch": "2.11.0"}, "host": "same"}
    (error,), _ = verdict_on(5, node_2=trouble, node_4=trouble)
    assert error.startswith("same rank 1, same rank 3: torch 2.11.0, on 3 of 5 nodes 2.13.0")


def test_a_version_that_rank_0_does_not_have_is_compared_among_the_others() -> None:
    (error,), _ = judge(Attendance(nodes(4, **{f"node_{number}": {"versions": {"cuda": f"12.{number // 4}"}} for number in (2, 3, 4)})))
    assert error.startswith("node-4: cuda 12.1, on 2 of 3 nodes 12.0")


def test_a_tie_of_versions_is_rank_0s() -> None:
    (error,), _ = verdict_on(2, node_1={"versions": {"torch": "2.11.0"}})
    assert error.startswith("node-2: torch 2.13.0, on 1 of 2 nodes 2.11.0")


def test_the_absent_are_named_and_what_they_break_is_not_blamed_on_others() -> None:
    left = nodes(2, node_1={"errors": {ALL_REDUCE: "Connection closed"}}, node_2={"errors": {ALL_REDUCE: "Connection closed"}})
    late = {2: "did not come within 60 s", 3: "did not come within 60 s", 4: "came, and was not done with matmul within 60 s"}
    errors, _ = judge(Attendance(left, {2: "node-3", 3: "", 4: "node-5"}, late))
    assert errors == [
        "node-3, rank 3: did not come within 60 s; see what that node does, or leave it out (sbatch --exclude)",
        "node-5: came, and was not done with matmul within 60 s; see what that node does, or leave it out (sbatch --exclude)",
    ]


def test_a_collective_that_fails_is_one_line_whatever_each_node_saw() -> None:
    (error,), _ = verdict_on(2, node_1={"errors": {ALL_REDUCE: "timed out"}}, node_2={"errors": {ALL_REDUCE: "closed by peer [::1]:7"}})
    assert error == "node-1, node-2: all-reduce: timed out; see that the nodes reach each other (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)"


def test_a_run_dir_that_rank_0_does_not_see_is_named_unless_it_has_none_itself() -> None:
    (error,), _ = judge(Attendance(nodes(3), unseen=frozenset({2})))
    assert error.startswith("node-3: the run dir is not the one that node-1 sees")
    without = nodes(3, node_1={"errors": {RUN_DIR: "Permission denied"}, "free_bytes": {RUN_DIR: 0}}, node_2={"sees_first": False})
    (error,), _ = judge(Attendance(without, unseen=frozenset({0, 1, 2})))
    assert error.startswith("node-1: run dir: Permission denied")


def test_what_could_not_be_measured_is_not_compared() -> None:
    missing = {"devices": [], "errors": {"devices": "no driver"}, "disk_seconds": None, "free_bytes": {}, "gb_per_second": {}}
    errors, warnings = verdict_on(3, node_1=missing)
    assert errors == ["node-1: devices: no driver; see nvidia-smi there, or leave the node out (sbatch --exclude)"] and not warnings


def test_devices_are_counted_by_name() -> None:
    assert shown_devices(node(0, devices=[GPU, GPU, Device("A100", None, None)])) == "A100 + 2 x H100"


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=9))
def test_the_typical_one_is_the_median_or_the_better_of_the_middle_two(values: list[float]) -> None:
    middle = typical(values)
    assert sum(value < middle for value in values) <= (len(values) - 1) // 2
    assert sum(value > middle for value in values) <= len(values) // 2
    assert typical([1.0, 9.0]) == 1.0


@given(st.lists(st.floats(0.05, 0.15), min_size=2, max_size=9), st.data())
def test_a_node_is_slow_exactly_when_it_is_so_many_times_behind_the_median(rates: list[float], data: st.DataObject) -> None:
    slow_one = data.draw(st.integers(0, len(rates) - 1))
    rates[slow_one] /= data.draw(st.floats(1.0, 20.0))
    facts = {rank: node(rank, devices=[Device("cpu", rate, None)]) for rank, rate in enumerate(rates)}
    errors, warnings = judge(Attendance(facts))
    middle = typical(1 / rate for rate in rates)
    named = {name for line in warnings for name in line.split(":")[0].split(", ")}
    assert not errors and named == {facts[rank].host for rank, rate in enumerate(rates) if 1 / rate > SLOWER * middle}
    assert len(named) <= len(rates) // 2


@given(st.floats(1e-4, 1.0), st.floats(1e-4, 1.0))
def test_a_disk_is_slow_where_it_is_behind_the_median_and_behind_the_floor(one: float, other: float) -> None:
    _, warnings = verdict_on(2, node_1={"disk_seconds": one}, node_2={"disk_seconds": other})
    slower = max(one, other)
    assert bool(warnings) == (slower > SLOWER * min(one, other) and slower > DISK_FLOOR_SECONDS)
    assert all(line.startswith("node-1" if one > other else "node-2") for line in warnings)


@given(st.permutations(range(4)), st.sampled_from(sorted(BROKEN)))
def test_the_verdict_does_not_depend_on_the_order_of_arrival(order: list[int], case: str) -> None:
    facts = nodes(4, node_3=BROKEN[case][0])
    assert judge(Attendance({rank: facts[rank] for rank in order})) == judge(Attendance(facts))
