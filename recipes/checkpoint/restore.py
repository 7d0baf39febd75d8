"""Loads a checkpoint into a running run, whatever the number of ranks that wrote it, and falls back to an older one if it is damaged. Also
loads the weights of another run into a new one, which begins with them."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recipes.checkpoint.inspect import explaining_damage
from recipes.checkpoint.layout import Manifest, candidates, check_files, read_manifest
from recipes.checkpoint.live import LiveState, check_same_architecture, entries, shards_of, weights_of
from recipes.checkpoint.load import CheckpointReader, Wanted
from recipes.cluster.world import World
from recipes.engine import shards
from recipes.errors import ConfigError, DamagedCheckpoint
from recipes.start_config import START_FROM, StartConfig

Report = Callable[[Path, str], Any]
Heartbeat = Callable[[], Any]
OwnKinds = Mapping[str, Mapping[str, Tensor]]
"""What an objective holds beside the student's own tensors: kind -> parameter name -> this rank's shard."""
KindsOf = Callable[[str, nn.Parameter, OwnKinds], Iterable[tuple[str, Tensor]]]
"""Returns (kind, this rank's shard) of everything of one parameter that is to be loaded."""


def load_newest(run_dir: Path, live: LiveState, world: World, report: Report, alive: Heartbeat = lambda: None) -> Manifest | None:
    """Load the newest checkpoint that every rank can read, and return its manifest. Return None if there is no checkpoint. All ranks must
    call this together.

    Rank 0 alone checks that all files of a checkpoint are there; a rank opens only those that hold something of its own. `report` is called
    with each checkpoint that some rank cannot read, and the reason. `alive` is called before each range of a file is read.
    Raises: ConfigError if the architecture or format version is another one, or if there are checkpoints and none can be read.
    """
    folders = world.on_rank_zero(lambda: candidates(run_dir))
    reasons = []
    for folder in folders:
        manifest, problem = None, world.on_rank_zero(partial(_problem_of_files, folder))
        if problem is None:
            try:
                manifest = load_checkpoint(folder, live, alive)
            except (DamagedCheckpoint, OSError) as error:
                problem = str(error)
            problem = next((text for text in world.gather(problem) if text), None)
        if manifest and problem is None:
            finish_load(live, manifest)
            return manifest
        assert problem is not None
        reasons.append(problem)
        report(folder, problem)
    if reasons:
        raise ConfigError(
            f"{run_dir}: none of {len(folders)} checkpoints can be read ({reasons[0]}); restore one from a copy, or remove "
            f"{run_dir / 'checkpoints'} to start again from step 0"
        )
    return None


def _problem_of_files(folder: Path) -> str | None:
    """Return what is wrong with the manifest of a checkpoint, or with the names and sizes of its files; None if nothing is."""
    try:
        check_files(folder, read_manifest(folder))
    except (DamagedCheckpoint, OSError) as error:
        return str(error)
    return None


def load_checkpoint(folder: Path, live: LiveState, alive: Heartbeat = lambda: None) -> Manifest:
    """Read this rank's part of a checkpoint into its shards, and return the manifest. Ranks do not wait for each other here. The forward
    passes use the new weights only after finish_load(). It is not checked whether files of other ranks are there. `alive` is called before
    each range of a file is read.

    Raises: ConfigError if the architecture or format is another one; DamagedCheckpoint and OSError, after which some shards may be written.
    """
    reader = CheckpointReader(folder, is_checked=True)
    check_same_architecture(folder, reader.manifest.parameters, entries(live))
    if not reader.names(shards.MOMENTS[0]):
        raise ConfigError(
            f"{folder}: holds weights without the optimizer's moments, so no run can go on there; name another --run-dir, and --set "
            f"{START_FROM}={folder.parent.parent} for a run that begins with them"
        )
    _read_shards(reader, live, live.shards(), shards_of, alive)
    return reader.manifest


def _read_shards(
    reader: CheckpointReader, live: LiveState, own_kinds: OwnKinds, kinds_of: KindsOf, alive: Heartbeat, prefix: str = ""
) -> None:
    parallel, wanted = live.parallel, list[Wanted]()
    for name, parameter in shards.named_parameters(live.student):
        if not name.startswith(prefix):
            continue
        first, count = shards.shard_range(parameter)
        cut = (parallel.tp_rank, parallel.tp_size) if shards.is_split(parameter) else (0, 1)
        wanted += [Wanted(kind, name, cut, first, shard[:count]) for kind, shard in kinds_of(name, parameter, own_kinds)]
    with torch.no_grad():
        reader.load(wanted, alive)


def finish_load(live: LiveState, manifest: Manifest) -> None:
    """Finish loading after load_checkpoint(): restore the optimizer's step count and the loss scale, and copy the loaded float32 weights
    into those that the forward uses. Call it on all ranks."""
    shards.set_optimizer_step(live.student, manifest.counters.step)
    shards.set_loss_scaler_state(live.student, manifest.metadata.get("loss_scaler", {}))
    shards.refresh_compute_weights(live.student)
    live.after_load()


def load_weights(
    folder: Path, live: LiveState, start: StartConfig, world: World, *, alive: Heartbeat = lambda: None, prefix: str = ""
) -> None:
    """Load another run's weights into a new one: those of the student and, unless `start` restarts them, the kinds that the objective
    holds beside it. With `prefix`, only parameters whose names begin with it are read; all others keep their initial values. Moments and
    counters stay as they are. All ranks must call this together. `alive` is called before each range of a file is read.

    Raises: ConfigError on all ranks if the architecture or format is another one, a kind is missing, or a file is damaged or gone.
    """
    own_kinds = {} if start.is_restarted else live.shards()

    def check() -> None:
        with explaining_damage(folder):
            reader = CheckpointReader(folder)
            there, here = (
                {name: one for name, one in found.items() if name.startswith(prefix)}
                for found in (reader.manifest.parameters, entries(live))
            )
            check_same_architecture(folder, there, here, f"name another run in {START_FROM}")
            _check_has(reader, own_kinds)

    def read() -> None:
        with explaining_damage(folder):
            _read_shards(CheckpointReader(folder, is_checked=True), live, own_kinds, weights_of, alive, prefix)

    world.on_rank_zero(check)
    world.on_all_ranks(read)
    shards.refresh_compute_weights(live.student)
    if start.is_restarted:
        live.restart()
    else:
        live.after_load()


def _check_has(reader: CheckpointReader, own_kinds: OwnKinds) -> None:
    for kind, of_kind in own_kinds.items():
        there = set(reader.names(kind))
        missing = [name for name in of_kind if name not in there]
        if missing:
            raise ConfigError(
                f"{reader.folder}: has no tensors of the kind {kind}, of {len(missing)} parameters such as {missing[0]}; "
                f"--set {StartConfig.RESTARTED} does without"
            )
