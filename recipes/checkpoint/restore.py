"""Puts a checkpoint into a live run, whatever number of ranks wrote it, and falls back to an older one where it is damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from recipes.checkpoint.layout import Manifest, candidates
from recipes.checkpoint.live import Live, check_same_architecture, entries, shards_of
from recipes.checkpoint.load import CheckpointReader
from recipes.cluster.world import World
from recipes.engine import shards
from recipes.errors import ConfigError, DamagedCheckpoint

Report = Callable[[Path, str], Any]
Alive = Callable[[], Any]


def load_newest(run_dir: Path, live: Live, world: World, report: Report, alive: Alive = lambda: None) -> Manifest | None:
    """Load the newest checkpoint that every rank can read; `report` is told of each that some rank cannot, `alive` of each
    parameter that is loaded. None where there is no checkpoint at all. A collective.

    Raises: ConfigError for another architecture or format, or where none can be read.
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


def load_checkpoint(folder: Path, live: Live, alive: Alive = lambda: None) -> Manifest:
    """Write every shard of this rank from a checkpoint. No collective: finish_load makes the forward see it.

    Raises: ConfigError for another architecture or format; DamagedCheckpoint and OSError, after which shards may be half written.
    """
    reader, parallel, beside = CheckpointReader(folder), live.parallel, live.shards()
    check_same_architecture(folder, reader.manifest.parameters, entries(live))
    for name, parameter in shards.named_parameters(live.student):
        first, count = shards.shard_range(parameter)
        cut = (parallel.tp_rank, parallel.tp_size) if shards.is_split(parameter) else (0, 1)
        alive()
        for kind, shard in shards_of(name, parameter, beside):
            with torch.no_grad():
                shard[:count].copy_(reader.read(kind, name, cut, first, count))
    return reader.manifest


def finish_load(live: Live, manifest: Manifest) -> None:
    """Everything beside the shards: the optimizer's count, the loss scale, the weights that the forwards gather. A collective
    where parameters are persistent."""
    shards.set_optimizer_step(live.student, manifest.counters.step)
    shards.set_loss_scaler_state(live.student, manifest.facts.get("loss_scaler", {}))
    shards.refresh_compute_weights(live.student)
    live.after_load()
