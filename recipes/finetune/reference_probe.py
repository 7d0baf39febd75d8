"""The samples of the probe `reference`: at masked positions of the run's own data, the targets of another run's teacher, which never
change. A linear map from the frozen features predicts them. All modalities.

Shapes: B batch, S positions, M masked positions, N chosen ones, T channels of the reference.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from model.batch import Batch
from model.init import Init
from model.parallel import Parallel, init_parallel
from model.teacher import Teacher
from recipes.config import Recipe
from recipes.data.heldout import eval_batches
from recipes.data.loader import Dataset
from recipes.data.tokenizer_files import tokenizer_in
from recipes.errors import ConfigError
from recipes.finetune.probe_samples import ProbeBatch, ProbeSamples, share_batches
from recipes.finetune.ridge import fit_targets
from recipes.interop.trunk import TrainedRun, find_run, load_trunk
from recipes.modalities.registry import modality_of
from recipes.train.probe import ProbePlace

POSITIONS = 16
"""Masked positions that are taken from each sample, on average: more change the score little, and take memory."""
BATCH = 32
FLAG = "eval.probe_reference "


def open_reference(recipe: Recipe, place: ProbePlace) -> ProbeSamples:
    """Read at most eval.probe_samples training samples of the run and as many held-out ones, with the masks of the reference. Compute the
    reference's targets. A collective. Raises: ConfigError."""
    world = place.world
    reference = world.on_all_ranks(lambda: _find(recipe, place.prepared))
    teacher = world.on_all_ranks(lambda: load_teacher(reference, world.device, place.parallel))
    masked = _masked_as(reference.recipe, recipe)
    data = world.on_all_ranks(lambda: modality_of(recipe.modality, recipe.name).open_data(masked, place.prepared))
    fit_part, test_part = (share_batches(partial(_read, recipe, dataset, teacher), place) for dataset in data)
    return ProbeSamples(fit_part, test_part, fit_targets, place.parallel)


def _find(recipe: Recipe, prepared: Path) -> TrainedRun:
    """Return the reference, of which the teacher is read. Raises: ConfigError if it reads other inputs than the run."""
    path = str(recipe.eval.probe_reference)
    found = find_run(Path(path), "teacher", FLAG)
    if found.recipe.modality != recipe.modality:
        raise ConfigError(f"{FLAG}{path}: is of modality {found.recipe.modality}, not {recipe.modality}; name a run of that")
    own, others = (tokenizer_in(folder) for folder in (prepared, found.prepared))
    if own and others and own.read_bytes() != others.read_bytes():
        raise ConfigError(
            f"{FLAG}{path}: its tokenizer is another one, so its positions are other tokens; name a run on the same prepared text"
        )
    return found


def _masked_as(reference: Recipe, recipe: Recipe) -> Recipe:
    """Return the recipe with the masks of the reference, so that runs with other masks or seeds are asked the same."""
    return replace(recipe, mask=reference.mask, run=replace(recipe.run, seed=reference.run.seed))


def _read(recipe: Recipe, dataset: Dataset, teacher: Teacher, first: int, step: int) -> list[ProbeBatch]:
    options = {"max_samples": recipe.eval.probe_samples, "micro_batch_size": BATCH, "group_size": recipe.data.group_size}
    batches = eval_batches(dataset, **options, dp_rank=0, dp_size=1)
    return list(_chosen(batches, teacher, first, step))


@torch.no_grad()
def _chosen(batches: Iterator[Batch], teacher: Teacher, first: int, step: int) -> Iterator[ProbeBatch]:
    device = next(teacher.parameters()).device
    for number, batch in enumerate(batches):
        if number % step != first:
            continue
        targets_BST = teacher(batch.to(device).finished(), None)
        (B, S), own_S = targets_BST.shape[:2], batch.masks.mask_BS.shape[1]
        if own_S != S:
            raise ConfigError(f"{FLAG}has {S} positions where this run has {own_S}; name a run whose front-end divides samples alike")
        masked_M = batch.masks.masked_index_M
        chosen_N = masked_M[:: max(1, len(masked_M) // (POSITIONS * B))]
        yield ProbeBatch(number, batch, targets_BST.flatten(0, 1)[chosen_N].float().cpu(), chosen_N)


def load_teacher(run: TrainedRun, device: torch.device, parallel: Parallel | None = None) -> Teacher:
    """Return the run's teacher with the weights of its checkpoint. `parallel`: the groups of its layers, None: of one rank. Raises:
    ConfigError as load_trunk()."""
    recipe, parallel = run.recipe, parallel or init_parallel(1, device.type)
    build_frontend = modality_of(recipe.modality, recipe.name).build_frontend(recipe)
    teacher = Teacher(recipe.model, recipe.teacher, build_frontend, Init(recipe.run.seed), parallel)
    teacher.trunk = load_trunk(run, device, parallel)
    return teacher
