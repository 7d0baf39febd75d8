"""The samples on which a network is probed while it is trained. They are read once, at the start, and each rank keeps its own share in
memory: so later no file can be missing, and no probe decodes anything.

Whole batches are dealt out to the ranks. So a batch holds the same samples on any number of ranks, and gives the same features.

Shapes: B batch, S sequence, D features, N examples or blanks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from model.batch import Batch
from model.parallel import Parallel
from recipes.config import Recipe
from recipes.data.media import BadItem, format_bad_items
from recipes.data.packing import Split
from recipes.data.shards import load_prepared
from recipes.data.text import TextDataset
from recipes.errors import ConfigError
from recipes.finetune import classify, cloze
from recipes.finetune.probe_text import prepare_given_text
from recipes.finetune.ridge import LayerExamples, LayerResult, fit_layer
from recipes.finetune.splits import Examples, open_splits
from recipes.train.probe import ProbePlace
from recipes.train.step_lines import warn


@dataclass(frozen=True)
class ProbeBatch:
    """One batch of a probe, with the label of each feature that is taken from it."""

    number: int
    """Place of the batch among those of all ranks."""
    batch: Batch
    labels_N: Tensor
    """Class numbers (N,), or vectors (N, T)."""
    chosen_N: Tensor | None = None
    """Positions whose outputs are the features, counted over the whole batch. None: the mean over the positions of each sample."""

    def features(self, x_BSD: Tensor, batch: Batch) -> Tensor:
        """Return the features of one layer, from its outputs (B, S, D) for this batch. `batch`: the batch on the device of x. Shapes:
        float32 (N, D), on the CPU."""
        return classify.pooled(x_BSD, batch) if self.chosen_N is None else cloze.at_blanks(x_BSD, self.chosen_N)


@dataclass(frozen=True)
class ProbePart:
    """The samples of a probe that are fitted on, or those that are tested on."""

    own: tuple[ProbeBatch, ...]
    """The batches of this rank."""
    num_rounds: int
    """Number of batches that every rank runs: those of the rank that has most."""
    filler: Batch
    """Runs, without being counted, on a rank that has fewer batches."""
    labels_N: Tensor
    """Labels of all ranks, in the order of the batches."""


@dataclass(frozen=True)
class ProbeSamples:
    """All samples of a probe, of which this rank has its share."""

    fit: ProbePart
    test: ProbePart
    fit_layer: Callable[[LayerExamples, LayerExamples], LayerResult]
    """Fits one layer to (features, labels) and scores it on others."""
    parallel: Parallel


Chunks = list[tuple[int, list[int]]]
"""Batches of a text: number and samples of each."""
SPLITS: tuple[tuple[Split, int], ...] = (("train", cloze.FIT_EPOCH), ("valid", 0))
"""Splits of a prepared text that are fitted and tested on, and the epoch of their masks."""
Read = Callable[[int, int], Sequence[ProbeBatch]]
"""Reads a share of the batches: (number of the first one, distance to the next) -> batches. A batch with nothing in it is left out."""


def open_classify(recipe: Recipe, place: ProbePlace) -> ProbeSamples:
    """Read at most eval.probe_samples labelled examples of each split. The splits are those of the probe command. Each rank may leave out
    as many examples that cannot be decoded as data.max_bad_fraction allows for its share. A collective. Raises: ConfigError."""
    config, world = recipe.eval, place.world

    def log(line: str) -> None:
        if world.rank == 0:
            warn(f"probe: {line}")

    def open_parts() -> tuple[Examples, Examples]:
        remedy = "--set eval.probe_label_column=NAME"
        return open_splits(recipe, config.probe_data, config.probe_label_column, place.prepared, log, remedy=remedy)

    fit, test = world.on_all_ranks(open_parts)
    count = min(config.probe_samples, len(test.indices))
    fit = Examples(fit.data, fit.indices[: config.probe_samples], fit.name)  # they are shuffled
    test = Examples(test.data, [test.indices[i * len(test.indices) // count] for i in range(count)], test.name)
    classes = classify.number_classes((fit, test))
    fit_part, test_part = (share_batches(partial(_read_examples, part, classes, world.rank), place) for part in (fit, test))
    classify.check_enough(fit.data, len(fit_part.labels_N), len(test_part.labels_N))
    return ProbeSamples(fit_part, test_part, partial(fit_layer, num_classes=len(classes)), place.parallel)


def _read_examples(part: Examples, classes: dict[str, int], rank: int, first: int, step: int) -> list[ProbeBatch]:
    size, bad = part.data.batch_size, dict[str, BadItem]()
    starts = range(first * size, len(part.indices), step * size)
    places = {index: start // size for start in starts for index in part.indices[start : start + size]}
    found = []
    for indices, batch in part.data.batches(list(places), bad):
        labels_N = torch.tensor([classes[str(part.data.labels[index])] for index in indices])
        found.append(ProbeBatch(places[indices[0]], batch, labels_N))
    if bad:
        warn(f"probe: rank {rank} leaves out what cannot be decoded: {format_bad_items(tuple(bad.values()))}")
    return found


def open_cloze(recipe: Recipe, place: ProbePlace) -> ProbeSamples:
    """Read at most eval.probe_samples samples of the run's training text, and as many of its held-out text, with the masks of the probe
    command. If eval.probe_data names a text, rank 0 prepares it with the run's tokenizer and it is read in place of both. A collective.
    Raises: ConfigError."""
    given, prepared = recipe.eval.probe_data, place.prepared
    if given is not None:
        prepared = place.world.on_rank_zero(lambda: prepare_given_text(recipe, place.prepared, given, place.run_dir))
    words = place.world.on_all_ranks(lambda: cloze.frequent_words(prepared))
    classes_V = cloze.word_classes(words, load_prepared(prepared).vocab_size)
    parts = []
    for split, epoch in SPLITS:
        data = TextDataset(prepared, split, mask=cloze.MASK, seed=cloze.SEED)
        _check_not_empty(len(data))
        chunks = list(enumerate(cloze.chunks(len(data), recipe.eval.probe_samples)))
        parts.append(share_batches(partial(_read_text, data, epoch, chunks, classes_V), place))
    fit_part, test_part = parts
    cloze.check_enough(len(test_part.labels_N))
    return ProbeSamples(fit_part, test_part, partial(fit_layer, num_classes=len(words)), place.parallel)


def _check_not_empty(num_samples: int) -> None:
    if num_samples == 0:
        raise ConfigError("the cloze probe is tested on held-out text, and there is none; raise data.heldout_fraction or name other text")


def _read_text(data: TextDataset, epoch: int, chunks: Chunks, classes_V: np.ndarray, first: int, step: int) -> list[ProbeBatch]:
    found = []
    for number, indices in chunks[first::step]:
        batch = data.collate([data.example(epoch, index) for index in indices])
        chosen_N, labels_N = cloze.find_blanks(batch, classes_V)
        found.append(ProbeBatch(number, batch, labels_N, chosen_N))
    return found


def share_batches(read: Read, place: ProbePlace) -> ProbePart:
    """Read this rank's share of the batches. Ranks of a tensor-parallel group read the same ones. A collective."""
    world, parallel = place.world, place.parallel
    own = world.on_all_ranks(lambda: read(parallel.dp_rank, parallel.dp_size))
    shares = world.gather({one.number: one.labels_N for one in own})
    labels = {number: labels_N for share in shares for number, labels_N in share.items()}
    if not labels:
        raise ConfigError("none of the examples of the probe can be decoded; fix them or name other data with --set eval.probe_data")
    filler = own[0].batch if own else None
    if not all(shares):  # only with few samples, so that batches of all ranks fit in each one's memory
        filler = next(batch for batch in world.gather(filler) if batch is not None)
    assert filler is not None
    return ProbePart(tuple(own), max(map(len, shares)), filler, torch.cat([labels[number] for number in sorted(labels)]))
