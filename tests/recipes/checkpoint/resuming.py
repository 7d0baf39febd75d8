"""What the ranks of two runs do to show that a checkpoint of one topology continues on another. The judgement is tests/soak/matrix.py's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.recipes.checkpoint.topology import Topology, small_recipe

UPDATES_BEFORE = 3
UPDATES_AFTER = 10
UPDATES_AGAIN = 3
"""Equal states stay equal for ever, so a few show it."""
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Source:
    """What a topology wrote and how it went on itself. `whole`: its state gathered without the checkpoint's code, a safetensors file."""

    topology: Topology
    checkpoint: Path
    whole: Path
    curve: Curve
    end: str
    """Digest of its state after the curve."""
    step: int


@dataclass(frozen=True)
class Continued:
    """What a target made of a source's checkpoint."""

    source: str
    unequal: list[str]
    """KIND/PARAMETER that are not the source's bit for bit, and copies that a forward gathers and are not those."""
    steps: set[float]
    curve: Curve
    end: str


def write_source(modality: str, topology: Topology, prepared: Path, folder: Path, reference: Path | None) -> Source:
    """A rank: train, save, go on. Then load `reference` and save it again, into folder/again."""
    from safetensors.torch import save_file

    from tests.recipes.checkpoint.live_run import LiveRun

    run = LiveRun(small_recipe(modality), topology, prepared, folder / topology.name)
    run.train(UPDATES_BEFORE)
    checkpoint, whole, step = run.save(), run.whole(), run.state.step
    path = folder / f"{topology.name}.safetensors"
    if run.world.rank == 0:
        save_file({name: tensor.contiguous() for name, tensor in whole.items()}, path)
    curve, end = run.train(UPDATES_AFTER), run.digest()
    if reference:
        run.load(reference)
        run.save(folder / "again" / topology.name)
    return Source(topology, checkpoint, path, curve, end, step)


def load_sources(
    modality: str, topology: Topology, prepared: Path, folder: Path, sources: list[Source], again: list[Path]
) -> tuple[list[Continued], list[tuple[Curve, str]]]:
    """A rank: load each source in turn into the same objective and go on; then one state as several topologies wrote it."""
    from tests.recipes.checkpoint.live_run import LiveRun

    run = LiveRun(small_recipe(modality), topology, prepared, folder / "target" / topology.name)
    run.train(1)  # one that is not fresh: loading must leave nothing of what it had
    continued = []
    for source in sources:
        run.load(source.checkpoint)
        differing, steps = unequal(run.whole(), source.whole) + run.stale(), run.optimizer_steps()
        continued.append(Continued(source.topology.name, differing, steps, run.train(UPDATES_AFTER), run.digest()))
    rewritten = []
    for path in again:
        run.load(path)
        rewritten.append((run.train(UPDATES_AGAIN), run.digest()))
    return continued, rewritten


def unequal(ours: dict[str, Any], path: Path) -> list[str]:
    """KIND/PARAMETER that are not those of a safetensors file bit for bit."""
    import torch
    from safetensors.torch import load_file

    theirs = load_file(path)
    same = {name for name in ours.keys() & theirs.keys() if torch.equal(ours[name], theirs[name])}
    return sorted((ours.keys() | theirs.keys()) - same)
