"""Scores a run that has ended: its best checkpoint predicts every test split once, in one process, in float32 and without DeepSpeed.

Shapes: B batch, N samples, K values that the metrics need of each sample.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.dropout import DropoutStream
from model.parallel import Parallel, having_a_world, parallel_alone
from model.task_network import TaskNetwork
from recipes.checkpoint.layout import best_folder, step_of
from recipes.cluster.environment import requested_accelerator
from recipes.config import Recipe
from recipes.data.contents import ResumedRun
from recipes.data.heldout import every_batch
from recipes.data.labelled_folder import VALID, LabelledInfo, load_info, load_rows_of
from recipes.data.loader import Dataset
from recipes.data.media import format_bad_items
from recipes.data.progress import ItemProgress
from recipes.data.shards import is_prepared
from recipes.errors import ConfigError
from recipes.finetune.predictions import PredictedRow, write_predictions
from recipes.finetune.results import Entry, add_results, check_writable
from recipes.finetune.searched import SearchedTranscripts
from recipes.finetune.sources import RANDOM
from recipes.finetune.task_result import FAILED, SplitScore, next_line, result_lines, run_entry, scored_entries
from recipes.interop.hf_format import export_refusal
from recipes.interop.stored_run import StoredRun, find_stored_run, prepared_of
from recipes.interop.stored_weights import StoredWeights
from recipes.labelled_config import LabelledDataConfig
from recipes.modalities.registry import source_of
from recipes.objectives.ctc import TranscriptTask
from recipes.objectives.registry import objective_class
from recipes.objectives.supervised import LabelTask, Prediction, Supervised, network_builder
from recipes.train.preempt import StopRequest

Log = Callable[[str], None]
SEARCHES: Mapping[Any, Callable[[Recipe], LabelTask]] = {TranscriptTask: SearchedTranscripts}
"""Task of an objective -> the one with a search, which is too slow for the evaluations of training."""


@dataclass(frozen=True)
class Predicted:
    """What a network predicts for a split, and the metrics; {} if the split has no labels."""

    predictions: list[Prediction]
    metrics: dict[str, float]


def score_run(run_dir: Path, log: Log = print) -> list[Entry]:
    """Score the run on its test splits, write predictions and results.json, print both, and return the entries. If results.json has the
    scores of this checkpoint already, no test data are read: the stored results are printed.

    Raises: ConfigError if data or checkpoint cannot be read, or if the results cannot be written; Stopped if a signal asks for an end.
    """
    run = find_stored_run(run_dir, "--run-dir ")
    checkpoint = best_folder(run_dir) or run.checkpoint
    before = scored_entries(run_dir, run.recipe)
    if before and {Path(path).name for entry in before for path in entry["checkpoints"]} == {checkpoint.name}:
        log(f"test touched once: step {step_of(checkpoint)} was scored before, these are its stored results")
        return _report(run.recipe, before, log)
    check_writable(run_dir, FAILED)
    with StopRequest() as stop, stop.interruptible("scoring"), having_a_world():
        scores = _Scoring(run, checkpoint, log).run()
    where = run.recipe.finetune.imported_from or run.content.get("start_from", {}).get("path") or run.recipe.start.start_from
    times = {entry["split"]: entry["times_scored"][0] for entry in before}
    entries = [
        run_entry(
            run.recipe,
            score,
            checkpoint=checkpoint,
            step=step_of(checkpoint),
            started_from=where or RANDOM,
            times_scored=times.get(score.split, 0) + 1,
        )
        for score in scores
    ]
    add_results(run_dir, entries, FAILED)
    return _report(run.recipe, entries, log)


def _report(recipe: Recipe, entries: list[Entry], log: Log) -> list[Entry]:
    for line in (*result_lines(entries), next_line(entries[0], export_refusal(recipe))):
        log(line)
    return entries


class _Scoring:
    """Predicts all splits with one network."""

    def __init__(self, run: StoredRun, checkpoint: Path, log: Log) -> None:
        self._run, self._checkpoint, self._recipe, self._log = run, checkpoint, run.recipe, log
        self._source: Any = source_of(run.recipe)
        self._task, self._device = scoring_task(run.recipe), scoring_device()
        self._batch_size = int(run.content.get("deepspeed", {}).get("train_micro_batch_size_per_gpu", 1))

    def run(self) -> list[SplitScore]:
        """Write the predictions of every test split. Return the scores of those that have labels; if none has, that of the validation
        split."""
        assert isinstance(self._recipe.data, LabelledDataConfig)
        prepared = find_prepared_of(self._run, self._source, self._log)
        info = load_info(prepared)
        network = load_task_network(self._recipe, self._checkpoint, self._device, parallel_alone())
        splits = [name for name in self._recipe.data.test_splits if name in info.counts]
        scores = [score for name in splits if (score := self._score(network, prepared, info, name))]
        if scores:
            return scores
        score = self._score(network, prepared, info, VALID)
        assert score is not None  # the preparation lets no validation split without labels pass
        return [score]

    def _score(self, network: TaskNetwork, prepared: Path, info: LabelledInfo, split: str) -> SplitScore | None:
        """Predict one split and write its predictions. Return the scores, None if it has no labels."""
        rows = load_rows_of(prepared, split)
        dataset = self._source.open_split(self._recipe, prepared, split)
        has_labels = split not in info.unlabelled
        progress = ItemProgress(f"scoring {split}", len(rows), unit="samples", log=self._log)
        found = predict(network, self._task, dataset, batch_size=self._batch_size, has_labels=has_labels, progress=progress)
        if bad := dataset.take_bad():
            self._log(f"{len(bad)} samples of {split} cannot be decoded and are scored as empty ones: {format_bad_items(bad)}")
        predicted = (PredictedRow(row.shown, row.label, said.text, said.score) for row, said in zip(rows, found.predictions, strict=True))
        path = write_predictions(self._run.run_dir, split, self._shown_as, predicted)
        if not has_labels:
            self._log(f"{split} ({len(rows):,} samples without labels): predictions: {path}")
            return None
        return SplitScore(split, found.metrics, len(rows), path, chosen_on=split == VALID)

    @property
    def _shown_as(self) -> str:
        assert isinstance(self._recipe.data, LabelledDataConfig)
        return self._recipe.data.shown_as


def scoring_task(recipe: Recipe) -> LabelTask:
    """Return the task that predicts and measures the test splits: that of the recipe's objective, or one of SEARCHES. Raises: ConfigError
    if a file of the search cannot be read."""
    objective = objective_class(recipe.objective.kind)
    assert issubclass(objective, Supervised)
    make = SEARCHES.get(objective.make_task)
    return make(recipe) if make else objective.make_task(recipe.objective)


def scoring_device() -> torch.device:
    """Return the device that scores: the current CUDA device, or the CPU if there is none or DS_ACCELERATOR asks for it."""
    on_cuda = torch.cuda.is_available() and requested_accelerator() != "cpu"
    return torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")


def find_prepared_of(run: StoredRun, source: Any, log: Log) -> Path:
    """Return the prepared data of a finished run. If its folder was deleted, it is made again, with the run's own tokenizer. Raises:
    ConfigError if the data are not those of the run."""
    prepared = prepared_of(run.run_dir, run.recipe)
    if not is_prepared(prepared):
        prepared = source.prepare(run.recipe, run.run_dir / "prepared", log=log, run=ResumedRun(run.run_dir))
    now, before = load_info(prepared).fingerprint, run.content.get("data_fingerprint")
    if now != before:
        raise ConfigError(f"{prepared}: not the data of the run (fingerprint {before} -> {now}); point --data at those")
    return prepared


def load_task_network(recipe: Recipe, checkpoint: Path, device: torch.device, parallel: Parallel) -> TaskNetwork:
    """Return the network of a supervised run with the weights of a checkpoint, in eval mode. Raises: ConfigError if the checkpoint cannot
    be read; DamagedCheckpoint."""
    stored = StoredWeights(checkpoint, "student")
    network = network_builder(recipe)(parallel=parallel, stream=DropoutStream())
    stored.copy_into(network)
    return network.to(device).eval()


@torch.no_grad()
def predict(
    network: TaskNetwork, task: LabelTask, dataset: Dataset, *, batch_size: int, has_labels: bool, progress: ItemProgress
) -> Predicted:
    """Return the predictions for all samples of the data set, in order, and the metrics if it has labels: eval_loss and those of the
    task."""
    device = next(network.parameters()).device
    predictions, parts = list[Prediction](), list[Tensor]()
    for batch in every_batch(dataset, batch_size, 0, 1):
        here = batch.to(device)
        outputs = network(here)
        predictions += task.predictions(outputs, here)
        if has_labels:
            parts.append(torch.cat([task.losses(outputs, here)[:, None].double(), task.results(outputs, here)], dim=1).cpu())
        progress.add(len(outputs))
    progress.close()
    if not has_labels:
        return Predicted(predictions, {})
    all_NK = torch.cat(parts)
    return Predicted(predictions, task.metrics(all_NK[:, 1:]) | {"eval_loss": float(all_NK[:, 0].mean())})
