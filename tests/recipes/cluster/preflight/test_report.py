"""The table with a line per node in columns, and the summary."""

from recipes.cluster.preflight.compare import ClusterReport, Findings
from recipes.cluster.preflight.node_report import MEMORY, Device
from recipes.cluster.preflight.report import HEADER, summary, table
from tests.nodes import nodes


def test_every_node_has_a_line_and_columns_are_aligned() -> None:
    odd = {"devices": [Device("NVIDIA H100", 650.0, 1.0)] * 8, "num_cores": 128, "free_bytes": {MEMORY: 2**40}, "seconds_ahead": -3.0}
    header, first, second, last = table(ClusterReport(nodes(2, node_2=odd)))
    starts = [header.index(name) for name in HEADER]
    cells = [[line[a:b].strip() for a, b in zip(starts, [*starts[1:], 999], strict=True)] for line in (first, second)]
    assert cells[0] == ["node-1", "2", "cpu", "0.1", "10.0", "16.0", "1024.0", "+0.000"]
    assert cells[1] == ["node-2", "128", "8 x NVIDIA H100", "650", "10.0", "1024.0", "1024.0", "-3.000"]
    assert last == "all-reduce over 2 nodes: 1 GB/s"


def test_unknown_values_are_question_marks() -> None:
    odd = {"devices": [], "disk_seconds": None, "free_bytes": {}, "gb_per_second": {}}
    _, line = table(ClusterReport(nodes(1, node_1=odd)))
    assert line.split() == ["node-1", "2", "?", "?", "?", "?", "?", "+0.000"]


def test_the_summary_is_the_warnings_or_that_all_nodes_are_fit() -> None:
    assert summary(ClusterReport(nodes(1)), Findings([], [])) == ["fit: 1 node"]
    assert summary(ClusterReport(nodes(2)), Findings([], [])) == ["fit: 2 nodes"]
    assert summary(ClusterReport(nodes(2)), Findings([], ["slow", "late"])) == ["warning: slow", "warning: late"]
    assert summary(ClusterReport(nodes(2)), Findings(["broken"], [])) == []
