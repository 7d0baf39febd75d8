"""From the facts of all nodes to the ones that fall out: broken, or much slower than the others. Pure: no files, no network, no torch."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from recipes.cluster.preflight.facts import ALL_REDUCE, EXCHANGE, RUN_DIR, SHARED_MEMORY, TEMPORARY, Facts

SLOWER = 1.5
"""So many times the median's time is slow. Equal nodes differ by a tenth; one that throttles or has lost a link, by far more."""
DISK_FLOOR_SECONDS = 0.05
"""Faster than this is never slow: the times of a disk that caches differ by more than SLOWER, and no run would notice."""
CLOCK_SECONDS = 2.0
"""Logs and files of two nodes that are compared by time still come in the right order below this."""
FREE_RUN_DIR = 2**30
"""Less does not hold one checkpoint of a base recipe; a disk so full is about to stop every run on it."""
FREE_ELSEWHERE = 64 * 2**20
"""What an empty container has in /dev/shm: data workers, compilers and the collectives of one node use less than that to start."""
FREE_DEVICE = 0.9
"""The driver takes a few percent. More is a process that somebody left there."""

REMEDIES = {
    "devices": "see nvidia-smi there, or leave the node out (sbatch --exclude)",
    "matmul": "leave the node out (sbatch --exclude) and have it looked at",
    RUN_DIR: "name a --run-dir that you may write to",
    ALL_REDUCE: "see that the nodes reach each other (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)",
}
SAME_CODE = {"checkout": "let all nodes see one checkout"}
Finding = tuple[int, str]
"""A rank and what is the matter with it."""


class Findings(NamedTuple):
    """What to mend before training, and what to look at."""

    errors: list[str]
    warnings: list[str]


@dataclass(frozen=True)
class Attendance:
    """Who took part, by rank. Rank 0 is among `facts`: it is the one who judges."""

    facts: Mapping[int, Facts]
    absent: Mapping[int, str] = field(default_factory=dict)
    """Did not come, or came and never said its facts -> its name where that is known."""
    reasons: Mapping[int, str] = field(default_factory=dict)
    """Why an absent one is."""
    unseen: frozenset[int] = frozenset()
    """Whose file in the run dir rank 0 does not see."""

    def name(self, rank: int) -> str:
        """The node, and the rank where the node does not say which one is meant."""
        host = self.facts[rank].host if rank in self.facts else self.absent[rank]
        hosts = [facts.host for facts in self.facts.values()] + list(self.absent.values())
        return host if host and hosts.count(host) == 1 else f"{host} rank {rank}".lstrip()


def judge(all_nodes: Attendance) -> Findings:
    """Both lists name nodes, numbers and what to do; nothing is compared where there is one node."""
    broken = [_missing(all_nodes), _failed(all_nodes), _different(all_nodes), _full(all_nodes), _not_shared(all_nodes), _locked(all_nodes)]
    doubtful = [_slow(all_nodes), _small(all_nodes), _occupied(all_nodes), _untimely(all_nodes)]
    return Findings(*([line for findings in kind for line in _grouped(all_nodes, findings)] for kind in (broken, doubtful)))


def typical(values: Iterable[float]) -> float:
    """The median of what is better when less; of an even count the better one of the middle two, so that one of two can be slow."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]


def shown_devices(facts: Facts) -> str:
    """Their names and numbers."""
    counts = Counter(device.name for device in facts.devices)
    return " + ".join(f"{number} x {name}" if number > 1 else name for name, number in sorted(counts.items()))


def _grouped(all_nodes: Attendance, findings: Iterable[Finding]) -> list[str]:
    """One line for all nodes of which the same is to be said."""
    ranks: dict[str, list[int]] = {}
    for rank, text in findings:
        ranks.setdefault(text, []).append(rank)
    return [f"{', '.join(all_nodes.name(rank) for rank in sorted(whose))}: {text}" for text, whose in ranks.items()]


def _missing(all_nodes: Attendance) -> Iterator[Finding]:
    for rank in all_nodes.absent:
        yield rank, f"{all_nodes.reasons[rank]}; see what that node does, or leave it out (sbatch --exclude)"


def _failed(all_nodes: Attendance) -> Iterator[Finding]:
    together = {rank: facts.errors[ALL_REDUCE] for rank, facts in all_nodes.facts.items() if ALL_REDUCE in facts.errors}
    for rank, facts in all_nodes.facts.items():
        for fact, reason in facts.errors.items():
            if fact != ALL_REDUCE:
                yield rank, f"{fact}: {reason}; {REMEDIES.get(fact, 'mend that, or leave the node out (sbatch --exclude)')}"
    if not all_nodes.absent:  # one that has gone breaks it for all others, and is named already
        yield from ((rank, f"{ALL_REDUCE}: {together[min(together)]}; {REMEDIES[ALL_REDUCE]}") for rank in together)


def _different(all_nodes: Attendance) -> Iterator[Finding]:
    facts = all_nodes.facts
    for key in sorted({key for one in facts.values() for key in one.versions}):
        said = {rank: one.versions[key] for rank, one in facts.items() if key in one.versions}
        remedy = SAME_CODE.get(key, "install the same from constraints.txt")
        yield from _minority({rank: value[:12] if key == "checkout" else value for rank, value in said.items()}, key, remedy)
    shown = {rank: shown_devices(one) for rank, one in facts.items() if "devices" not in one.errors}
    yield from _minority(shown, "devices", REMEDIES["devices"])


def _minority(said: Mapping[int, str], key: str, remedy: str) -> Iterator[Finding]:
    counts = Counter(said[rank] for rank in sorted(said))  # a tie is rank 0's: the first one counted
    if len(counts) > 1:
        common, number = counts.most_common(1)[0]
        yield from (
            (rank, f"{key} {value}, on {number} of {len(said)} nodes {common}; {remedy}") for rank, value in said.items() if value != common
        )


def _full(all_nodes: Attendance) -> Iterator[Finding]:
    for rank, facts in all_nodes.facts.items():
        free = facts.free_bytes.get(RUN_DIR, FREE_RUN_DIR)
        if free < FREE_RUN_DIR and RUN_DIR not in facts.errors:
            yield (
                rank,
                f"{free / 2**30:.2f} GiB free on the run dir's disk, at least {FREE_RUN_DIR / 2**30:g} needed; name another --run-dir",
            )


def _not_shared(all_nodes: Attendance) -> Iterator[Finding]:
    if RUN_DIR in all_nodes.facts[0].errors:
        return  # it has written nothing that anybody could see
    for rank, facts in all_nodes.facts.items():
        if RUN_DIR not in facts.errors and not (facts.sees_first and rank not in all_nodes.unseen):
            yield rank, f"the run dir is not the one that {all_nodes.name(0)} sees; name a --run-dir on a file system that all nodes share"


def _locked(all_nodes: Attendance) -> Iterator[Finding]:
    for rank, facts in all_nodes.facts.items():
        yield from ((rank, f"a killed build left {path}, and the next one waits for it for ever; rm {path}") for path in facts.stale_locks)


def _slow(all_nodes: Attendance) -> Iterator[Finding]:
    tflops = {rank: facts.tflops for rank, facts in all_nodes.facts.items() if facts.tflops}
    for rank, ratio in _slower({rank: 1 / rate for rank, rate in tflops.items()}):
        yield rank, f"matmul {ratio:.1f}x slower than the median, {tflops[rank]:.3g} TFLOP/s; {REMEDIES['matmul']}"
    rates = {rank: facts.gb_per_second[EXCHANGE] for rank, facts in all_nodes.facts.items() if facts.gb_per_second.get(EXCHANGE)}
    for rank, ratio in _slower({rank: 1 / rate for rank, rate in rates.items()}):
        yield rank, f"exchange with two others {ratio:.1f}x slower than the median, {rates[rank]:.3g} GB/s; look at its network"
    disks = {rank: facts.disk_seconds for rank, facts in all_nodes.facts.items() if facts.disk_seconds is not None}
    for rank, ratio in _slower(disks):
        if disks[rank] > DISK_FLOOR_SECONDS:
            yield rank, f"run dir {ratio:.1f}x slower than the median, {disks[rank] * 1e3:.0f} ms for 1 MiB; look at its mount"


def _slower(seconds: Mapping[int, float]) -> Iterator[tuple[int, float]]:
    """Who takes more than SLOWER times as long as the typical one, and how many times."""
    middle = typical(seconds.values()) if seconds else 0.0
    yield from ((rank, value / middle) for rank, value in seconds.items() if middle and value > SLOWER * middle)


def _small(all_nodes: Attendance) -> Iterator[Finding]:
    for rank, facts in all_nodes.facts.items():
        for place in (TEMPORARY, SHARED_MEMORY):
            free = facts.free_bytes.get(place, FREE_ELSEWHERE)
            if free < FREE_ELSEWHERE:
                yield rank, f"{place}: {free / 2**20:.1f} MiB free, less than {FREE_ELSEWHERE / 2**20:g}; remove what is left there"


def _occupied(all_nodes: Attendance) -> Iterator[Finding]:
    for rank, facts in all_nodes.facts.items():
        for index, device in enumerate(facts.devices):
            if device.free_fraction is not None and device.free_fraction < FREE_DEVICE:
                yield rank, f"device {index}: {device.free_fraction:.0%} of its memory free; see nvidia-smi for who has the rest"


def _untimely(all_nodes: Attendance) -> Iterator[Finding]:
    for rank, facts in all_nodes.facts.items():
        if abs(facts.seconds_ahead) > CLOCK_SECONDS:
            direction = "ahead of" if facts.seconds_ahead > 0 else "behind"
            yield rank, f"clock {abs(facts.seconds_ahead):.1f} s {direction} {all_nodes.name(0)}'s; start its time service"
