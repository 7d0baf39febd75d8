"""The reports of all nodes as lines for a terminal. Pure."""

from recipes.cluster.preflight.compare import ClusterReport, Findings, shown_devices
from recipes.cluster.preflight.node_report import ALL_REDUCE, MEMORY, RUN_DIR, NodeReport

HEADER = ("node", "cores", "devices", "matmul TFLOP/s", "disk ms", "memory GiB", "run dir GiB", "clock s")


def table(all_nodes: ClusterReport) -> list[str]:
    """Return a table of all nodes: a header, a line per node, and a line with the all-reduce rate over all nodes if it was measured."""
    rows = [HEADER, *((all_nodes.name(rank), *_cells(report)) for rank, report in sorted(all_nodes.reports.items()))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    rate = all_nodes.reports[0].gb_per_second.get(ALL_REDUCE)
    return lines if rate is None else [*lines, f"all-reduce over {len(all_nodes.reports)} nodes: {rate:.3g} GB/s"]


def summary(all_nodes: ClusterReport, findings: Findings) -> list[str]:
    """Return a line for each warning; "fit: N nodes" if there are neither warnings nor errors. Errors are not shown."""
    if findings.errors or findings.warnings:
        return [f"warning: {line}" for line in findings.warnings]
    return [f"fit: {len(all_nodes.reports)} node{'s' if len(all_nodes.reports) > 1 else ''}"]


def _cells(report: NodeReport) -> tuple[str, ...]:
    return (
        *(str(report.num_cores), shown_devices(report) or "?", _number(report.tflops, ".3g")),
        _number(report.disk_seconds and report.disk_seconds * 1e3, ".1f"),
        *(_gib(report.free_bytes.get(place)) for place in (MEMORY, RUN_DIR)),
        f"{report.seconds_ahead:+.3f}",
    )


def _gib(number: int | None) -> str:
    return _number(None if number is None else number / 2**30, ".1f")


def _number(value: float | None, style: str) -> str:
    return "?" if value is None else format(value, style)
