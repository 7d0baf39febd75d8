"""What the ranks of two runs do to show that a checkpoint of one topology continues on another. tests/soak/matrix.py compares the
results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.recipes.checkpoint.topology import Topology, small_recipe

UPDATES_BEFORE = 3
UPDATES_AFTER = 10
UPDATES_AGAIN = 3
"""Number of updates after loading one state from several checkpoints. Equal states stay equal, so few are enough."""
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Source:
    """What the run of one topology wrote, and how it went on by itself. `whole`: a safetensors file with its whole tensors, gathered
    without the code that writes checkpoints."""

    topology: Topology
    checkpoint: Path
    whole: Path
    curve: Curve
    end: str
    """Hash of its state after the last update of `curve`."""
    step: int


@dataclass(frozen=True)
class Continued:
    """How a run of one topology continued from the checkpoint of a Source, which may have another one."""

    source: str
    unequal: list[str]
    """KIND/PARAMETER of tensors that differ from the source's after loading, and parameters whose compute weights are wrong."""
    steps: set[float]
    curve: Curve
    end: str


def write_source(modality: str, topology: Topology, prepared: Path, folder: Path, reference: Path | None) -> Source:
    """Train, save, and continue in this topology. Then load the checkpoint `reference`, if given, and save it again into folder/again.
    Called on every rank."""
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
    """Load the checkpoint of each source in turn into the same engines and continue. Then do the same with each checkpoint of `again`: one
    state, written by several topologies. Called on every rank.

    Returns what became of each source, and (curve, hash of the state) of each checkpoint of `again`.
    """
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
    """Return the sorted names of tensors that differ between `ours` and a safetensors file, or are in only one of them."""
    import torch
    from safetensors.torch import load_file

    theirs = load_file(path)
    same = {name for name in ours.keys() & theirs.keys() if torch.equal(ours[name], theirs[name])}
    return sorted((ours.keys() | theirs.keys()) - same)
