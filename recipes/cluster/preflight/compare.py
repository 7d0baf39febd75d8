"""Compare the reports of all nodes and find those that are broken, or much slower than the others. Pure: no files, no network, no torch."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from recipes.cluster.preflight.node_report import ALL_REDUCE, EXCHANGE, RUN_DIR, SHARED_MEMORY, TEMPORARY, NodeReport

SLOWER = 1.5
"""A node that takes more than this many times the median's time is slow. Equal nodes differ by a tenth; a node that throttles or has lost a
link differs by far more."""
DISK_FLOOR_SECONDS = 0.05
"""A disk that takes less time than this is never slow: the times of a disk with a cache differ by more than SLOWER, without effect on a
run."""
CLOCK_SECONDS = 2.0
"""Difference of two nodes' clocks that is accepted: below it, their logs and files still sort in the right order by time."""
FREE_RUN_DIR = 2**30
"""Bytes that must be free for the run dir. Less space does not hold one checkpoint of a base recipe, and will soon stop every run on it."""
FREE_ELSEWHERE = 64 * 2**20
"""Bytes that should be free in /dev/shm and the temporary folder: the size of /dev/shm in an empty container. Data workers, compilers
and the collectives of one node need less than that to start."""
FREE_DEVICE = 0.9
"""Share of a device's memory that should be free. The driver takes a few percent. If more is taken, another process is running on the
device."""

REMEDIES = {
    "devices": "see nvidia-smi there, or leave the node out (sbatch --exclude)",
    "matmul": "leave the node out (sbatch --exclude) and have it looked at",
    RUN_DIR: "name a --run-dir that you may write to",
    ALL_REDUCE: "see that the nodes reach each other (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)",
}
SAME_CODE = {"checkout": "let all nodes see one checkout"}
Finding = tuple[int, str]
"""A rank and its problem."""


class Findings(NamedTuple):
    """What is wrong with the nodes, a line for each problem. Errors must be fixed before training; warnings should be looked at."""

    errors: list[str]
    warnings: list[str]


@dataclass(frozen=True)
class ClusterReport:
    """The reports of all nodes, by rank, as rank 0 has received them. Rank 0's own report is always among them."""

    reports: Mapping[int, NodeReport]
    absent: Mapping[int, str] = field(default_factory=dict)
    """Rank that did not join, or joined and sent no report -> name of its node, empty if that is unknown."""
    reasons: Mapping[int, str] = field(default_factory=dict)
    """Absent rank -> why it is absent."""
    unseen: frozenset[int] = frozenset()
    """Ranks that wrote a file into the run dir which rank 0 does not see."""

    def name(self, rank: int) -> str:
        """Return the node name of a rank, followed by "rank N" if the name is unknown or several ranks have it."""
        host = self.reports[rank].host if rank in self.reports else self.absent[rank]
        hosts = [report.host for report in self.reports.values()] + list(self.absent.values())
        return host if host and hosts.count(host) == 1 else f"{host} rank {rank}".lstrip()


def compare_nodes(all_nodes: ClusterReport) -> Findings:
    """Return which nodes are broken (errors) or slow (warnings), each with the node, the numbers and the remedy. Nodes are compared with
    each other, so a single node is never slow or different."""
    errors = [
        _missing(all_nodes),
        _failed(all_nodes),
        _different(all_nodes),
        _no_space(all_nodes),
        _not_shared(all_nodes),
        _stale_locks(all_nodes),
    ]
    warnings = [_slow(all_nodes), _low_space(all_nodes), _occupied(all_nodes), _wrong_clocks(all_nodes)]
    return Findings(*([line for findings in kind for line in _grouped(all_nodes, findings)] for kind in (errors, warnings)))


def lower_median(values: Iterable[float]) -> float:
    """Return the median; of an even count, the smaller one of the two middle values. So of two nodes the slower one is an outlier. There
    must be a value."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]


def shown_devices(report: NodeReport) -> str:
    """Return names and counts of a node's devices, such as "2 x H100"; "" if there are none."""
    counts = Counter(device.name for device in report.devices)
    return " + ".join(f"{number} x {name}" if number > 1 else name for name, number in sorted(counts.items()))


def _grouped(all_nodes: ClusterReport, findings: Iterable[Finding]) -> list[str]:
    """Return one line for each problem, which begins with the names of all nodes that have it."""
    ranks: dict[str, list[int]] = {}
    for rank, text in findings:
        ranks.setdefault(text, []).append(rank)
    return [f"{', '.join(all_nodes.name(rank) for rank in sorted(affected))}: {text}" for text, affected in ranks.items()]


def _missing(all_nodes: ClusterReport) -> Iterator[Finding]:
    for rank in all_nodes.absent:
        yield rank, f"{all_nodes.reasons[rank]}; check that node, or leave it out (sbatch --exclude)"


def _failed(all_nodes: ClusterReport) -> Iterator[Finding]:
    together = {rank: report.errors[ALL_REDUCE] for rank, report in all_nodes.reports.items() if ALL_REDUCE in report.errors}
    for rank, report in all_nodes.reports.items():
        for measurement, reason in report.errors.items():
            if measurement != ALL_REDUCE:
                yield rank, f"{measurement}: {reason}; {REMEDIES.get(measurement, 'fix that, or leave the node out (sbatch --exclude)')}"
    if not all_nodes.absent:  # an absent rank makes the all-reduce fail on all others, and is reported already
        yield from ((rank, f"{ALL_REDUCE}: {together[min(together)]}; {REMEDIES[ALL_REDUCE]}") for rank in together)


def _different(all_nodes: ClusterReport) -> Iterator[Finding]:
    reports = all_nodes.reports
    for key in sorted({key for report in reports.values() for key in report.versions}):
        values = {rank: report.versions[key] for rank, report in reports.items() if key in report.versions}
        remedy = SAME_CODE.get(key, "install the same from constraints.txt")
        yield from _minority({rank: value[:12] if key == "checkout" else value for rank, value in values.items()}, key, remedy)
    shown = {rank: shown_devices(report) for rank, report in reports.items() if "devices" not in report.errors}
    yield from _minority(shown, "devices", REMEDIES["devices"])


def _minority(values: Mapping[int, str], key: str, remedy: str) -> Iterator[Finding]:
    counts = Counter(values[rank] for rank in sorted(values))  # in a tie rank 0's value wins, since it is counted first
    if len(counts) > 1:
        common, number = counts.most_common(1)[0]
        yield from (
            (rank, f"{key} {value}, on {number} of {len(values)} nodes {common}; {remedy}")
            for rank, value in values.items()
            if value != common
        )


def _no_space(all_nodes: ClusterReport) -> Iterator[Finding]:
    for rank, report in all_nodes.reports.items():
        free = report.free_bytes.get(RUN_DIR, FREE_RUN_DIR)
        if free < FREE_RUN_DIR and RUN_DIR not in report.errors:
            yield (
                rank,
                f"{free / 2**30:.2f} GiB free on the run dir's disk, at least {FREE_RUN_DIR / 2**30:g} needed; name another --run-dir",
            )


def _not_shared(all_nodes: ClusterReport) -> Iterator[Finding]:
    if RUN_DIR in all_nodes.reports[0].errors:
        return  # rank 0 could not write the file that the others look for
    for rank, report in all_nodes.reports.items():
        if RUN_DIR not in report.errors and not (report.sees_first and rank not in all_nodes.unseen):
            yield rank, f"the run dir is not the one that {all_nodes.name(0)} sees; name a --run-dir on a file system that all nodes share"


def _stale_locks(all_nodes: ClusterReport) -> Iterator[Finding]:
    for rank, report in all_nodes.reports.items():
        yield from (
            (rank, f"a killed build left {path}, and the next build waits for it forever; rm {path}") for path in report.stale_locks
        )


def _slow(all_nodes: ClusterReport) -> Iterator[Finding]:
    tflops = {rank: report.tflops for rank, report in all_nodes.reports.items() if report.tflops}
    for rank, ratio in _slower({rank: 1 / rate for rank, rate in tflops.items()}):
        yield rank, f"matmul {ratio:.1f}x slower than the median, {tflops[rank]:.3g} TFLOP/s; {REMEDIES['matmul']}"
    rates = {rank: report.gb_per_second[EXCHANGE] for rank, report in all_nodes.reports.items() if report.gb_per_second.get(EXCHANGE)}
    for rank, ratio in _slower({rank: 1 / rate for rank, rate in rates.items()}):
        yield rank, f"exchange with two others {ratio:.1f}x slower than the median, {rates[rank]:.3g} GB/s; look at its network"
    disks = {rank: report.disk_seconds for rank, report in all_nodes.reports.items() if report.disk_seconds is not None}
    for rank, ratio in _slower(disks):
        if disks[rank] > DISK_FLOOR_SECONDS:
            yield rank, f"run dir {ratio:.1f}x slower than the median, {disks[rank] * 1e3:.0f} ms for 1 MiB; look at its mount"


def _slower(seconds: Mapping[int, float]) -> Iterator[tuple[int, float]]:
    """Yield (rank, ratio) for each rank that takes more than 1.5 times (SLOWER) the median. `seconds`: rank -> time. The ratio is the
    rank's time divided by the median."""
    middle = lower_median(seconds.values()) if seconds else 0.0
    yield from ((rank, value / middle) for rank, value in seconds.items() if middle and value > SLOWER * middle)


def _low_space(all_nodes: ClusterReport) -> Iterator[Finding]:
    for rank, report in all_nodes.reports.items():
        for place in (TEMPORARY, SHARED_MEMORY):
            free = report.free_bytes.get(place, FREE_ELSEWHERE)
            if free < FREE_ELSEWHERE:
                yield rank, f"{place}: {free / 2**20:.1f} MiB free, less than {FREE_ELSEWHERE / 2**20:g}; remove what is left there"


def _occupied(all_nodes: ClusterReport) -> Iterator[Finding]:
    for rank, report in all_nodes.reports.items():
        for index, device in enumerate(report.devices):
            if device.free_fraction is not None and device.free_fraction < FREE_DEVICE:
                yield rank, f"device {index}: {device.free_fraction:.0%} of its memory free; see nvidia-smi for what uses the rest"


def _wrong_clocks(all_nodes: ClusterReport) -> Iterator[Finding]:
    for rank, report in all_nodes.reports.items():
        if abs(report.seconds_ahead) > CLOCK_SECONDS:
            direction = "ahead of" if report.seconds_ahead > 0 else "behind"
            yield rank, f"clock {abs(report.seconds_ahead):.1f} s {direction} {all_nodes.name(0)}'s; start its time service"
