"""Random damage to the newest of two checkpoints, and what a run loads instead. tests/soak/corruption.py counts the cases.

The checkpoints have files of several ranks. One process loads them all, so that a case starts no process.
"""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.recipes.checkpoint.topology import Topology, small_recipe

WRITERS = Topology(tp_size=2, dp_size=2)
OLDER, NEWER = 2, 4
"""Steps of the two checkpoints."""
MOST_BITS = 8
UNREPORTED = ("latest", "folder")
"""Prefixes of damage kinds after which an undamaged checkpoint is chosen without a report."""


@dataclass(frozen=True)
class Site:
    """What one case damages: the folder of the newest checkpoint, the older one, and the random numbers of the case."""

    newer: Path
    older: Path
    rng: random.Random

    def rank_file(self) -> Path:
        """Return a random rank file."""
        return self.rng.choice(sorted(self.newer.glob("rank_*")))

    def manifest(self) -> Path:
        """Return the path of manifest.json."""
        return self.newer / "manifest.json"

    def latest(self) -> Path:
        """Return the path of the file that names the newest checkpoint."""
        return self.newer.parent / "latest"


Pick = Callable[[Site], Path]
Damage = Callable[[Site], None]


def data_start(content: bytes | bytearray) -> int:
    """Return the offset at which a rank file's header ends."""
    return 8 + int.from_bytes(content[:8], "little")


def flip(pick: Pick, part: str = "all") -> Damage:
    """Flip one to MOST_BITS bits of a file, of its header, or of its tensors."""

    def damage(site: Site) -> None:
        path = pick(site)
        content = bytearray(path.read_bytes())
        first, stop = {"all": (0, len(content)), "header": (0, data_start(content)), "data": (data_start(content), len(content))}[part]
        for position in site.rng.sample(
            range(8 * first, 8 * stop), site.rng.randint(1, MOST_BITS)
        ):  # distinct bits, so that no flip undoes another
            content[position // 8] ^= 1 << position % 8
        path.write_bytes(content)

    return damage


def truncate(pick: Pick) -> Damage:
    """Cut off a random part at the end."""

    def damage(site: Site) -> None:
        path = pick(site)
        content = path.read_bytes()
        path.write_bytes(content[: site.rng.randrange(1, len(content))])

    return damage


def empty(pick: Pick) -> Damage:
    """Remove the content and keep the file."""

    def damage(site: Site) -> None:
        pick(site).write_bytes(b"")

    return damage


def remove(pick: Pick) -> Damage:
    """Remove the file."""
    return lambda site: pick(site).unlink()


def append(pick: Pick) -> Damage:
    """Append random bytes, a newline or zeros."""

    def damage(site: Site) -> None:
        path, count = pick(site), site.rng.randint(1, 64)
        tail = site.rng.choice([site.rng.randbytes(count), b"\n", bytes(count)])
        path.write_bytes(path.read_bytes() + tail)

    return damage


def zero(pick: Pick) -> Damage:
    """Fill a block with zeros, as if the disk had never written it."""

    def damage(site: Site) -> None:
        path = pick(site)
        content = bytearray(path.read_bytes())
        start = site.rng.randrange(len(content))
        while not any(content[start : start + 512]):
            start = site.rng.randrange(len(content))
        content[start : start + 512] = bytes(len(content[start : start + 512]))
        path.write_bytes(content)

    return damage


def swap_ranges(site: Site) -> None:
    """Swap two ranges of a rank file's tensors."""
    path = site.rank_file()
    content = bytearray(path.read_bytes())
    while True:
        size = site.rng.randint(4, 4096)
        one, two = sorted(site.rng.sample(range(data_start(content), len(content) - size), 2))
        if one + size <= two and content[one : one + size] != content[two : two + size]:
            break
    content[one : one + size], content[two : two + size] = content[two : two + size], content[one : one + size]
    path.write_bytes(content)


def swap_files(site: Site) -> None:
    """Swap the names of two rank files."""
    one, two = site.rng.sample(sorted(site.newer.glob("rank_*")), 2)
    between = one.with_name("between")
    one.rename(between)
    two.rename(one)
    between.rename(two)


def take_older(pick: Pick) -> Damage:
    """Replace a file by that of the older checkpoint."""

    def damage(site: Site) -> None:
        path = pick(site)
        shutil.copyfile(site.older / path.name, path)

    return damage


RANK, MANIFEST, LATEST = Site.rank_file, Site.manifest, Site.latest
DAMAGES: dict[str, Damage] = {
    "rank file: bits of the header": flip(RANK, "header"),
    "rank file: bits of the tensors": flip(RANK, "data"),
    "rank file: truncated": truncate(RANK),
    "rank file: empty": empty(RANK),
    "rank file: removed": remove(RANK),
    "rank file: bytes appended": append(RANK),
    "rank file: a block of zeros": zero(RANK),
    "rank file: two ranges swapped": swap_ranges,
    "rank files: two swapped": swap_files,
    "rank file: from the older checkpoint": take_older(RANK),
    "manifest: bits": flip(MANIFEST),
    "manifest: truncated": truncate(MANIFEST),
    "manifest: empty": empty(MANIFEST),
    "manifest: removed": remove(MANIFEST),
    "manifest: bytes appended": append(MANIFEST),
    "manifest: a block of zeros": zero(MANIFEST),
    "manifest: from the older checkpoint": take_older(MANIFEST),
    "latest: bits": flip(LATEST),
    "latest: truncated": truncate(LATEST),
    "latest: empty": empty(LATEST),
    "latest: removed": remove(LATEST),
    "latest: bytes appended": append(LATEST),
    "folder: removed": lambda site: shutil.rmtree(site.newer),
}


@dataclass(frozen=True)
class Case:
    """One damage and the result of load_newest."""

    kind: str
    seed: int
    reported: list[tuple[str, str]]
    """Checkpoints that could not be read, and why."""
    step: int
    """Step of the checkpoint that was loaded."""
    is_exact: bool
    """True if the live state is bitwise that of the checkpoint."""

    @property
    def is_detected(self) -> bool:
        """True if the damaged checkpoint was reported and the older one loaded. For UNREPORTED kinds: if any undamaged one was loaded."""
        if self.kind.startswith(UNREPORTED):
            return self.is_exact and not self.reported
        return self.is_exact and self.step == OLDER and [name for name, _ in self.reported] == [f"step_{NEWER:08d}"]


def write_two(prepared: Path, run_dir: Path) -> None:
    """On a rank of WRITERS: write the two checkpoints."""
    from tests.recipes.checkpoint.live_run import LiveRun

    run = LiveRun(small_recipe("text"), WRITERS, prepared, run_dir)
    for _ in (OLDER, NEWER):
        run.train(2)
        run.save()


def load_damaged(prepared: Path, run_dir: Path, seeds: range) -> list[Case]:
    """On one rank: damage, load and compare for each seed. The kinds of damage take turns."""
    from tests.recipes.checkpoint.live_run import LiveRun

    run = LiveRun(small_recipe("text"), Topology(), prepared, run_dir)
    checkpoints, whole = run_dir / "checkpoints", run_dir / "whole"
    shutil.copytree(checkpoints, whole)
    older, newer = checkpoints / f"step_{OLDER:08d}", checkpoints / f"step_{NEWER:08d}"
    digests = {}
    for step, folder in ((OLDER, older), (NEWER, newer)):
        run.load(folder)
        digests[step] = run.digest()
    assert digests[OLDER] != digests[NEWER], "training must have changed the state"
    cases = []
    for seed in seeds:
        kind = list(DAMAGES)[seed % len(DAMAGES)]
        DAMAGES[kind](Site(newer, older, random.Random(seed)))
        for shard in run.local().values():
            shard.fill_(float(seed))  # so that a shard that is not restored is noticed
        reported: list[tuple[str, str]] = []
        manifest = run.load_newest(reported)
        assert manifest is not None, f"seed {seed}: no checkpoint at all"
        step = manifest.counters.step
        is_exact = run.digest() == digests[step] and not run.stale() and run.optimizer_steps() == {float(step)}
        cases.append(Case(kind, seed, reported, step, is_exact))
        shutil.rmtree(checkpoints)
        shutil.copytree(whole, checkpoints)
    reported = []
    manifest = run.load_newest(reported)
    assert manifest and (manifest.counters.step, reported, run.digest()) == (NEWER, [], digests[NEWER]), (
        "the undamaged newest checkpoint must be loaded"
    )
    return cases
