"""Loads a checkpoint into a running run, whatever the number of ranks that wrote it, and falls back to an older one if it is damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from recipes.checkpoint.layout import Manifest, candidates
from recipes.checkpoint.live import LiveState, check_same_architecture, entries, shards_of
from recipes.checkpoint.load import CheckpointReader
from recipes.cluster.world import World
from recipes.engine import shards
from recipes.errors import ConfigError, DamagedCheckpoint

Report = Callable[[Path, str], Any]
Heartbeat = Callable[[], Any]


def load_newest(run_dir: Path, live: LiveState, world: World, report: Report, alive: Heartbeat = lambda: None) -> Manifest | None:
    """Load the newest checkpoint that every rank can read, and return its manifest. Return None if there is no checkpoint. All ranks must
    call this together.

    `report` is called with each checkpoint that some rank cannot read, and the reason. `alive` is called before each parameter is loaded.
    Raises: ConfigError if the architecture or format version is another one, or if there are checkpoints and none can be read.
    """
    folders = world.on_rank_zero(lambda: candidates(run_dir))
    reasons = []
    for folder in folders:
        manifest, problem = None, None
        try:
            manifest = load_checkpoint(folder, live, alive)
        except (DamagedCheckpoint, OSError) as error:
            problem = str(error)
        problems: list[str | None] = [None] * world.size
        dist.all_gather_object(problems, problem, group=world.control)
        if manifest and not any(problems):
            finish_load(live, manifest)
            return manifest
        reasons.append(next(text for text in problems if text))
        report(folder, reasons[-1])
    if reasons:
        raise ConfigError(
            f"{run_dir}: none of {len(folders)} checkpoints can be read ({reasons[0]}); restore one from a copy, or remove "
            f"{run_dir / 'checkpoints'} to start again from step 0"
        )
    return None


def load_checkpoint(folder: Path, live: LiveState, alive: Heartbeat = lambda: None) -> Manifest:
    """Read this rank's part of a checkpoint into its shards, and return the manifest. Ranks do not wait for each other here. The forward
    passes use the new weights only after finish_load(). `alive` is called before each parameter.

    Raises: ConfigError if the architecture or format is another one; DamagedCheckpoint and OSError, after which some shards may be written.
    """
    reader, parallel, own_kinds = CheckpointReader(folder), live.parallel, live.shards()
    check_same_architecture(folder, reader.manifest.parameters, entries(live))
    for name, parameter in shards.named_parameters(live.student):
        first, count = shards.shard_range(parameter)
        cut = (parallel.tp_rank, parallel.tp_size) if shards.is_split(parameter) else (0, 1)
        alive()
        for kind, shard in shards_of(name, parameter, own_kinds):
            with torch.no_grad():
                shard[:count].copy_(reader.read(kind, name, cut, first, count))
    return reader.manifest


def finish_load(live: LiveState, manifest: Manifest) -> None:
    """Finish loading after load_checkpoint(): restore the optimizer's step count and the loss scale, and copy the loaded float32 weights
    into those that the forward uses. Call it on all ranks."""
    shards.set_optimizer_step(live.student, manifest.counters.step)
    shards.set_loss_scaler_state(live.student, manifest.metadata.get("loss_scaler", {}))
    shards.refresh_compute_weights(live.student)
    live.after_load()
