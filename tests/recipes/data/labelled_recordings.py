"""Synthetic labelled recordings for tests: tones of two classes with transcripts, as tables of splits, and a recipe for them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.frontends.speech_config import SpeechFrontendConfig
from recipes.config import Recipe
from recipes.data.labelled_prepare import prepare_labelled
from recipes.data.labelled_speech_reader import LabelledSpeechReader
from recipes.finetune.speech_tasks import SPEECH_TASKS, speech_recipe
from tests.launching import tiny_recipe
from tests.recipes.data.recordings import RATE, encode

LENGTHS = tuple(480 + 61 * (7 * number % 23) for number in range(24))
"""480 to 1822 samples, not sorted: 47 to 181 frames of the tiny recipe."""
WORDS = ("low", "high")


def tone(samples: int, label: int, seed: int) -> np.ndarray:
    """Return a tone of class `label` (0 or 1) in noise."""
    seconds = np.arange(samples) / RATE
    noise = np.random.default_rng(seed).standard_normal(samples)
    return (0.2 * np.sin(2 * np.pi * (300, 2500)[label] * seconds) + 0.02 * noise).astype(np.float32)


def write_split(folder: Path, name: str, lengths: Sequence[int] = LENGTHS, **columns: Sequence[Any]) -> Path:
    """Write NAME.parquet with recordings of these lengths, classes in turn (column label) and their words (column text), into `folder`.
    Return the folder. `columns`: further ones, or others instead."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = [number % 2 for number in range(len(lengths))]
    audio = [
        {"bytes": encode(tone(length, label, number)), "path": None}
        for number, (length, label) in enumerate(zip(lengths, labels, strict=True))
    ]
    table = {"audio": audio, "label": labels, "text": [WORDS[label] for label in labels], **columns}
    pq.write_table(pa.table(table), folder / f"{name}.parquet")
    return folder


def write_data(folder: Path) -> Path:
    """Write the splits train and test, and return the folder."""
    write_split(folder, "train")
    return write_split(folder, "test", LENGTHS[:6])


def labelled_recipe(path: Path, task: str = "ctc", **data: Any) -> Recipe:
    """Return the recipe of a task on the data at `path` with a tiny network. `data`: changes of the section data."""
    recipe = speech_recipe(task, SPEECH_TASKS[task], tiny_recipe("speech"))
    assert isinstance(recipe.frontend, SpeechFrontendConfig)
    changes = {"path": str(path), "num_workers": 0, "heldout_fraction": 0.25, **data}
    return replace(recipe, data=replace(recipe.data, **changes), run=replace(recipe.run, global_batch_size=8))


def prepare(recipe: Recipe, folder: Path, lines: list[str] | None = None) -> Path:
    """Return the folder, prepared by this process alone. `lines` gets the log."""
    log = (lambda line: None) if lines is None else lines.append
    return prepare_labelled(recipe, folder, lambda found: LabelledSpeechReader(found, log, num_processes=1), log)
