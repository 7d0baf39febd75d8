"""The facts of all nodes as lines for a terminal. Pure."""

from recipes.cluster.preflight.compare import Attendance, Findings, shown_devices
from recipes.cluster.preflight.facts import ALL_REDUCE, MEMORY, RUN_DIR, Facts

HEADER = ("node", "cores", "devices", "matmul TFLOP/s", "disk ms", "memory GiB", "run dir GiB", "clock s")


def table(all_nodes: Attendance) -> list[str]:
    """A line per node, in columns, and the bandwidth of all together."""
    rows = [HEADER, *((all_nodes.name(rank), *_cells(facts)) for rank, facts in sorted(all_nodes.facts.items()))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    rate = all_nodes.facts[0].gb_per_second.get(ALL_REDUCE)
    return lines if rate is None else [*lines, f"all-reduce over {len(all_nodes.facts)} nodes: {rate:.3g} GB/s"]


def closing(all_nodes: Attendance, verdict: Findings) -> list[str]:
    """The warnings; where nothing is the matter, that."""
    if verdict.errors or verdict.warnings:
        return [f"warning: {line}" for line in verdict.warnings]
    return [f"fit: {len(all_nodes.facts)} node{'s' if len(all_nodes.facts) > 1 else ''}"]


def _cells(facts: Facts) -> tuple[str, ...]:
    return (
        *(str(facts.num_cores), shown_devices(facts) or "?", _number(facts.tflops, ".3g")),
        _number(facts.disk_seconds and facts.disk_seconds * 1e3, ".1f"),
        *(_gib(facts.free_bytes.get(place)) for place in (MEMORY, RUN_DIR)),
        f"{facts.seconds_ahead:+.3f}",
    )


def _gib(number: int | None) -> str:
    return _number(None if number is None else number / 2**30, ".1f")


def _number(value: float | None, style: str) -> str:
    return "?" if value is None else format(value, style)
