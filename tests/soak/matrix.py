"""Resume matrix: a checkpoint of every topology is resumed on every other topology, with exactly its state and the same curve.

python -m tests.soak.matrix --out results/matrix.json
python -m tests.soak.matrix --modality text --precision fp32 --offload off

One line per pair. Requirements: the state after loading is the source's bit for bit; ten further updates give the source's own
losses and gradient norms, bit for bit on the same topology, else within the tolerances in fp32; the same state gives the same updates
for every topology that wrote it. In bf16 topologies round differently, so the distance of the curves is printed but has no limit.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.distributed import run_distributed
from tests.recipes.checkpoint.resuming import Continued, Curve, Source, load_sources, write_source
from tests.recipes.checkpoint.topology import CUTS, Topology, prepare_small

FIRST_TOLERANCE, LAST_TOLERANCE = 1e-5, 1e-4
"""Relative tolerances of loss and gradient norm, at the first and up to the last further update (fp32)."""
TIMEOUT_SECONDS = 900.0
SAMPLE = {
    *(("tp1dp1", "tp2dp2"), ("tp2dp2", "tp1dp1"), ("tp1dp2", "tp2dp1")),
    *(("tp2dp1", "tp1dp4"), ("tp4dp1", "tp1dp2"), ("tp1dp4", "tp4dp1")),
}
"""The pairs of speech and vision."""
CROSSING = [Topology(2, 1), Topology(1, 2, offload=True), Topology(1, 2, "bf16"), Topology(2, 1, "bf16", offload=True)]
"""Between precisions and offload settings the state is exact too; the curve is that of other arithmetic."""
COPIES = "one state as every topology wrote it"
Wanted = set[tuple[str, str]] | None
"""(source, target) by cut; None is all."""


@dataclass(frozen=True)
class Pair:
    """The result of one source on one target. `exact`: the state after loading; `first`, `last`: relative distance of the curves
    at the first further update and the largest over all; `identical`: all bits of curve and last state; None where not asked."""

    modality: str
    source: str
    target: str
    exact: bool
    first: float
    last: float
    identical: bool
    problems: tuple[str, ...]

    def line(self) -> str:
        """Return the line for the terminal."""
        result = "; ".join(self.problems) or "ok"
        curve = "bit-identical" if self.identical else f"{self.first:.1e} at the first, {self.last:.1e} over all"
        return f"{self.modality} {self.source} -> {self.target}: state {'exact' if self.exact else 'DIFFERS'}, curve {curve}: {result}"


def compare(modality: str, source: Source, target: Topology, seen: Continued) -> Pair:
    """Compare one pair."""
    first, last = distance(seen.curve[:1], source.curve[:1]), distance(seen.curve, source.curve)
    identical = seen.curve == source.curve
    problems = []
    if seen.unequal:
        problems.append(f"{len(seen.unequal)} tensors differ after loading, the first {seen.unequal[0]}")
    if seen.steps != {float(source.step)}:
        problems.append(f"optimizer step {seen.steps}, not {source.step}")
    if source.topology == target and not (identical and seen.end == source.end):
        problems.append("not bit-identical on the same topology")
    if (source.topology.precision, target.precision) == ("fp32", "fp32") and (first > FIRST_TOLERANCE or last > LAST_TOLERANCE):
        problems.append(f"further than {FIRST_TOLERANCE:g} or {LAST_TOLERANCE:g}")
    return Pair(modality, source.topology.name, target.name, not seen.unequal, first, last, identical, tuple(problems))


def distance(curve: Curve, other: Curve) -> float:
    """Return the largest relative difference of losses and gradient norms."""
    return max(abs(a / b - 1) for ours, theirs in zip(curve, other, strict=True) for a, b in zip(ours, theirs, strict=True))


def write_sources(modality: str, topologies: list[Topology], prepared: Path, folder: Path) -> list[Source]:
    """Write every topology's own checkpoint, and the first topology's checkpoint as rewritten by each topology."""
    sources: list[Source] = []
    for topology in topologies:
        args = modality, topology, prepared, folder, sources[0].checkpoint if sources else None
        sources.append(run_distributed(write_source, topology.world_size, *args, timeout=TIMEOUT_SECONDS)[0])
    return sources


def continue_on(modality: str, target: Topology, prepared: Path, folder: Path, sources: list[Source], copied: Path) -> Iterator[Pair]:
    """Yield the pairs of one target, and check that it continues equally from `copied` and from its copies by other topologies."""
    again = sorted((folder / "again").glob("*/checkpoints/step_*"))
    args = modality, target, prepared, folder, sources, [copied, *again]
    continued, rewritten = run_distributed(load_sources, target.world_size, *args, timeout=TIMEOUT_SECONDS)[0]
    yield from (compare(modality, source, target, seen) for source, seen in zip(sources, continued, strict=True))
    alike = all(one == rewritten[0] for one in rewritten)
    problems = () if alike else ("goes on differently, depending on which topology wrote it",)
    yield Pair(modality, COPIES, target.name, True, 0.0, 0.0, alike, problems)


def run_group(modality: str, topologies: list[Topology], folder: Path, wanted: Wanted = None) -> Iterator[Pair]:
    """Yield all pairs of these topologies, or only the wanted pairs."""
    prepared = prepare_small(modality, folder)
    sources = write_sources(modality, topologies, prepared, folder)
    for target in topologies:
        cut = target.name.partition("_")[0]
        own = [s for s in sources if wanted is None or (s.topology.name.partition("_")[0], cut) in wanted]
        yield from continue_on(modality, target, prepared, folder, own, sources[0].checkpoint)


def summary(pairs: list[Pair], seconds: float) -> dict:
    """Return counts and the worst distances by modality, source's and target's setting."""
    proper = [pair for pair in pairs if pair.source != COPIES]
    worst: dict[str, dict[str, float]] = {}
    for pair in proper:
        settings = [name.partition("_")[2] for name in (pair.source, pair.target)]
        place = worst.setdefault(f"{pair.modality} {' -> '.join(dict.fromkeys(settings))}", {"pairs": 0, "first": 0.0, "last": 0.0})
        place["pairs"] += 1
        place["first"], place["last"] = max(place["first"], pair.first), max(place["last"], pair.last)
    return {
        "pairs": len(proper),
        "passed": sum(not pair.problems for pair in proper),
        "states_exact": sum(pair.exact for pair in proper),
        "curves_bit_identical": sum(pair.identical for pair in proper),
        "copies": len(pairs) - len(proper),
        "copies_bit_identical": sum(pair.identical for pair in pairs if pair.source == COPIES),
        "worst_relative_difference": worst,
        "failures": [asdict(pair) for pair in pairs if pair.problems],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds, 1),
    }


def groups(args: argparse.Namespace) -> Iterator[tuple[str, list[Topology], Wanted]]:
    """Yield modality, topologies of one setting, wanted pairs."""
    for modality in args.modality or ("text", "speech", "vision"):
        for precision in args.precision or ("fp32", "bf16"):
            for offload in args.offload or ("off", "on"):
                yield modality, [c.but(precision=precision, offload=offload == "on") for c in CUTS], None if modality == "text" else SAMPLE
    if not args.skip_crossing:
        yield "text", CROSSING, None


def main() -> int:
    """Returns the exit code: 1 if a pair fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", action="append", choices=["text", "speech", "vision"], help="may be given several times; default all")
    parser.add_argument("--precision", action="append", choices=["fp32", "bf16"])
    parser.add_argument("--offload", action="append", choices=["off", "on"], help="of the optimizer's state to the host")
    parser.add_argument("--skip-crossing", action="store_true", help="leave out the pairs between precisions and offload settings")
    parser.add_argument("--out", type=Path, help="write the summary and all pairs to this JSON file")
    args = parser.parse_args()
    start, pairs = time.monotonic(), list[Pair]()
    for modality, topologies, wanted in groups(args):
        with tempfile.TemporaryDirectory() as folder:
            for pair in run_group(modality, topologies, Path(folder), wanted):
                pairs.append(pair)
                print(pair.line(), flush=True)
    result = summary(pairs, time.monotonic() - start)
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result | {"all": [asdict(pair) for pair in pairs]}, indent=1) + "\n")
    return int(any(pair.problems for pair in pairs))


if __name__ == "__main__":
    sys.exit(main())
