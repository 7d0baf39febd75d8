"""A node's report is the same after the round trip through JSON, and a node is as fast as its slowest device."""

from recipes.cluster.preflight.node_report import Device, NodeReport
from tests.nodes import node

GPUS = [Device("H100", 700.0, 0.99), Device("H100", 400.0, 0.5), Device("H100", None, None)]


def test_a_report_is_the_same_after_the_round_trip_through_json() -> None:
    for report in (node(0), node(1, devices=GPUS, errors={"matmul": "broken"}, disk_seconds=None, stale_locks=["a/lock"])):
        assert NodeReport.of(report.to_json()) == report


def test_a_node_is_as_fast_as_its_slowest_device() -> None:
    assert node(0, devices=GPUS).tflops == 400.0
    assert node(0, devices=GPUS[2:]).tflops is None and node(0, devices=[]).tflops is None
