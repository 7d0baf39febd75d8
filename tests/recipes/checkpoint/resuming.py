"""What the ranks of two runs do to show that a checkpoint of one topology continues on another. tests/soak/matrix.py compares the
results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.recipes.checkpoint.topology import Topology, small_recipe

UPDATES_BEFORE = 3
UPDATES_AFTER = 10
UPDATES_AGAIN = 3
"""Equal states stay equal, so a few updates are enough."""
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Source:
    """What a topology wrote and how it continued itself. `whole`: its state, gathered without the checkpoint's code, as a safetensors
    file."""

    topology: Topology
    checkpoint: Path
    whole: Path
    curve: Curve
    end: str
    """Digest of its state at the end of the curve."""
    step: int


@dataclass(frozen=True)
class Continued:
    """How a target continued from a source's checkpoint."""

    source: str
    unequal: list[str]
    """KIND/PARAMETER that are not bitwise the source's, and parameters whose copies for the forward are not."""
    steps: set[float]
    curve: Curve
    end: str


def write_source(modality: str, topology: Topology, prepared: Path, folder: Path, reference: Path | None) -> Source:
    """On a rank: train, save, continue. Then load `reference` and save it again, into folder/again."""
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
    """On a rank: load each source in turn into the same objective and continue. Then do the same with one state that several topologies
    wrote."""
    from tests.recipes.checkpoint.live_run import LiveRun

    run = LiveRun(small_recipe(modality), topology, prepared, folder / "target" / topology.name)
    run.train(1)  # not a fresh objective: loading must replace all of its state
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
    """Return the KIND/PARAMETER that are not bitwise those of a safetensors file."""
    import torch
    from safetensors.torch import load_file

    theirs = load_file(path)
    same = {name for name in ours.keys() & theirs.keys() if torch.equal(ours[name], theirs[name])}
    return sorted((ours.keys() | theirs.keys()) - same)
