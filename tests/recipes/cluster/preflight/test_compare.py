"""Comparing nodes: every kind of problem is reported with its node and for no other node; slowness is relative to the median."""

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.cluster.preflight.compare import DISK_FLOOR_SECONDS, SLOWER, ClusterReport, compare_nodes, lower_median, shown_devices
from recipes.cluster.preflight.node_report import ALL_REDUCE, EXCHANGE, RUN_DIR, SHARED_MEMORY, TEMPORARY, Device, NodeReport
from tests.nodes import node, nodes

GPU = Device("H100", 700.0, 0.99)
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "a measurement": ({"errors": {"matmul": "uncorrectable ECC error"}}, "matmul: uncorrectable ECC error; leave the node out"),
    "an unknown one": ({"errors": {"versions": "Stale file handle"}}, "versions: Stale file handle; fix that, or leave the node out"),
    "a version": ({"versions": {"torch": "2.11.0"}}, "torch 2.11.0, on 3 of 4 nodes 2.13.0; install the same from constraints.txt"),
    "the code": (
        {"versions": {"checkout": "fedcba9876543210"}},
        "checkout fedcba987654, on 3 of 4 nodes 0123456789ab; let all nodes see one checkout",
    ),
    "devices": ({"devices": [GPU] * 7}, "devices 7 x H100, on 3 of 4 nodes cpu; see nvidia-smi there"),
    "no room": ({"free_bytes": {RUN_DIR: 2**28}}, "0.25 GiB free on the run dir's disk, at least 1 needed; name another --run-di"),
    "no access": ({"errors": {RUN_DIR: "Permission denied"}}, "run dir: Permission denied; name a --run-dir that you may write to"),
    "another folder": ({"sees_first": False}, "the run dir is not the one that node-1 sees; name a --run-dir on a file system that all"),
    "a lock": (
        {"stale_locks": ["/c/shm/lock"]},
        "a killed build left /c/shm/lock, and the next build waits for it forever; rm /c/shm/lock",
    ),
}
SUSPICIOUS: dict[str, tuple[dict[str, Any], str]] = {
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


ONLY_SHOWN = {"host", "num_cores"}
"""Fields that are only shown: the name, and the number of cores, which may differ between the nodes of a job."""


def test_every_field_of_a_report_is_compared() -> None:
    cases = [changes for changes, _ in (*BROKEN.values(), *SUSPICIOUS.values())]
    assert {name for changes in cases for name in changes} == {field.name for field in fields(NodeReport)} - ONLY_SHOWN


def findings_of(number: int, **odd: dict[str, Any]) -> tuple[list[str], list[str]]:
    return compare_nodes(ClusterReport(nodes(number, **odd)))


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_on_one_node_is_an_error_of_that_node_alone(case: str) -> None:
    changes, complaint = BROKEN[case]
    (error,), warnings = findings_of(4, node_3=changes)
    assert error.startswith(f"node-3: {complaint}") and not warnings


@pytest.mark.parametrize("case", SUSPICIOUS)
def test_what_is_suspicious_on_one_node_is_a_warning_of_that_node_alone(case: str) -> None:
    changes, complaint = SUSPICIOUS[case]
    errors, (warning,) = findings_of(4, node_3=changes)
    assert not errors and warning.startswith(f"node-3: {complaint}")


@given(st.integers(1, 9))
def test_equal_nodes_are_fit(number: int) -> None:
    assert findings_of(number) == ([], [])


def test_one_node_is_compared_with_nothing() -> None:
    alone = {"disk_seconds": 9.0, "devices": [Device("cpu", 1e-6, None)], "gb_per_second": {EXCHANGE: 1e-6}}
    assert findings_of(1, node_1=alone) == ([], [])


def test_device_memory_that_another_process_uses_is_reported() -> None:
    devices = [GPU, Device("H100", 700.0, 0.6)]
    errors, (warning,) = findings_of(2, node_1={"devices": devices}, node_2={"devices": [GPU, GPU]})
    assert not errors and warning == "node-1: device 1: 60% of its memory free; see nvidia-smi for what uses the rest"


def test_nodes_with_the_same_problem_share_a_line_and_ranks_are_added_if_the_host_is_the_same() -> None:
    problem = {"versions": {"torch": "2.11.0"}, "host": "same"}
    (error,), _ = findings_of(5, node_2=problem, node_4=problem)
    assert error.startswith("same rank 1, same rank 3: torch 2.11.0, on 3 of 5 nodes 2.13.0")


def test_a_version_that_rank_0_does_not_have_is_compared_among_the_others() -> None:
    (error,), _ = compare_nodes(
        ClusterReport(nodes(4, **{f"node_{number}": {"versions": {"cuda": f"12.{number // 4}"}} for number in (2, 3, 4)}))
    )
    assert error.startswith("node-4: cuda 12.1, on 2 of 3 nodes 12.0")


def test_in_a_tie_of_versions_rank_0s_is_the_reference() -> None:
    (error,), _ = findings_of(2, node_1={"versions": {"torch": "2.11.0"}})
    assert error.startswith("node-2: torch 2.13.0, on 1 of 2 nodes 2.11.0")


def test_absent_ranks_are_named_and_the_collective_that_they_break_is_not_an_error_of_others() -> None:
    present = nodes(2, node_1={"errors": {ALL_REDUCE: "Connection closed"}}, node_2={"errors": {ALL_REDUCE: "Connection closed"}})
    reasons = {2: "did not join within 60 s", 3: "did not join within 60 s", 4: "joined, but did not finish matmul within 60 s"}
    errors, _ = compare_nodes(ClusterReport(present, {2: "node-3", 3: "", 4: "node-5"}, reasons))
    assert errors == [
        "node-3, rank 3: did not join within 60 s; check that node, or leave it out (sbatch --exclude)",
        "node-5: joined, but did not finish matmul within 60 s; check that node, or leave it out (sbatch --exclude)",
    ]


def test_a_failed_collective_is_one_line_even_if_the_nodes_errors_differ() -> None:
    (error,), _ = findings_of(2, node_1={"errors": {ALL_REDUCE: "timed out"}}, node_2={"errors": {ALL_REDUCE: "closed by peer [::1]:7"}})
    assert error == "node-1, node-2: all-reduce: timed out; see that the nodes reach each other (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)"


def test_a_run_dir_that_rank_0_does_not_see_is_reported_unless_rank_0_has_none() -> None:
    (error,), _ = compare_nodes(ClusterReport(nodes(3), unseen=frozenset({2})))
    assert error.startswith("node-3: the run dir is not the one that node-1 sees")
    without = nodes(3, node_1={"errors": {RUN_DIR: "Permission denied"}, "free_bytes": {RUN_DIR: 0}}, node_2={"sees_first": False})
    (error,), _ = compare_nodes(ClusterReport(without, unseen=frozenset({0, 1, 2})))
    assert error.startswith("node-1: run dir: Permission denied")


def test_what_could_not_be_measured_is_not_compared() -> None:
    missing = {"devices": [], "errors": {"devices": "no driver"}, "disk_seconds": None, "free_bytes": {}, "gb_per_second": {}}
    errors, warnings = findings_of(3, node_1=missing)
    assert errors == ["node-1: devices: no driver; see nvidia-smi there, or leave the node out (sbatch --exclude)"] and not warnings


def test_devices_are_counted_by_name() -> None:
    assert shown_devices(node(0, devices=[GPU, GPU, Device("A100", None, None)])) == "A100 + 2 x H100"


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=9))
def test_the_lower_median_is_the_median_or_the_smaller_of_the_middle_two(values: list[float]) -> None:
    middle = lower_median(values)
    assert sum(value < middle for value in values) <= (len(values) - 1) // 2
    assert sum(value > middle for value in values) <= len(values) // 2
    assert lower_median([1.0, 9.0]) == 1.0


@given(st.lists(st.floats(0.05, 0.15), min_size=2, max_size=9), st.data())
def test_a_node_is_slow_exactly_if_it_is_slower_than_the_median_by_the_factor(rates: list[float], data: st.DataObject) -> None:
    slow_one = data.draw(st.integers(0, len(rates) - 1))
    rates[slow_one] /= data.draw(st.floats(1.0, 20.0))
    reports = {rank: node(rank, devices=[Device("cpu", rate, None)]) for rank, rate in enumerate(rates)}
    errors, warnings = compare_nodes(ClusterReport(reports))
    middle = lower_median(1 / rate for rate in rates)
    named = {name for line in warnings for name in line.split(":")[0].split(", ")}
    assert not errors and named == {reports[rank].host for rank, rate in enumerate(rates) if 1 / rate > SLOWER * middle}
    assert len(named) <= len(rates) // 2


@given(st.floats(1e-4, 1.0), st.floats(1e-4, 1.0))
def test_a_disk_is_slow_if_it_is_slower_than_the_median_by_the_factor_and_than_the_floor(one: float, other: float) -> None:
    _, warnings = findings_of(2, node_1={"disk_seconds": one}, node_2={"disk_seconds": other})
    slower = max(one, other)
    assert bool(warnings) == (slower > SLOWER * min(one, other) and slower > DISK_FLOOR_SECONDS)
    assert all(line.startswith("node-1" if one > other else "node-2") for line in warnings)


@given(st.permutations(range(4)), st.sampled_from(sorted(BROKEN)))
def test_the_findings_do_not_depend_on_the_order_of_arrival(order: list[int], case: str) -> None:
    reports = nodes(4, node_3=BROKEN[case][0])
    assert compare_nodes(ClusterReport({rank: reports[rank] for rank in order})) == compare_nodes(ClusterReport(reports))
