"""Labelled examples of each modality as micro-batches for a frozen trunk: whole clips one by one, centre views, padded sentences. No masks,
and no randomness. The only table of modalities in this folder.

Shapes: B batch, S sequence, N examples.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.batch import Batch
from recipes.config import Recipe
from recipes.data.audio import AUDIO, decode_audio, normalize
from recipes.data.images import IMAGES, center_view, decode_image
from recipes.data.labelled_text import load_split
from recipes.data.media import Media, MediaKind, open_media
from recipes.data.speech import SpeechExample, collate_speech
from recipes.data.tokenizer import BOS, PAD, encode
from recipes.data.vision import VisionExample, collate_vision
from recipes.errors import ConfigError

BATCH = 32
Collate = Callable[[list[Any]], Batch]


@dataclass(frozen=True)
class Labelled:
    """One split: class names, and how to read and batch the examples."""

    labels: list[str]
    read: Callable[[int], Any]
    collate: Collate
    batch_size: int = BATCH

    def batches(self, indices: list[int]) -> Iterator[Batch]:
        """The examples of these numbers, batch_size at a time, in order."""
        for start in range(0, len(indices), self.batch_size):
            yield self.collate([self.read(index) for index in indices[start : start + self.batch_size]])


OpenLabelled = Callable[[Recipe, str | None, str, str, Path], Labelled]
"""(recipe, --data, split, label column, the run's prepared folder) -> examples. Raises: ConfigError."""


def open_labelled(recipe: Recipe, path: str | None, split: str, label_column: str, prepared: Path) -> Labelled:
    """A split of labelled data for the recipe's modality. Raises: ConfigError where it, or its labels, are not there."""
    return OPENERS[recipe.modality](recipe, path, split, label_column, prepared)


def _open_text(recipe: Any, path: str | None, split: str, label_column: str, prepared: Path) -> Labelled:
    column, length = recipe.data.text_column, recipe.data.sequence_length
    rows = load_split(path, split, (column, label_column))
    texts, model = rows[column], str(prepared / "tokenizer.model")

    def read(index: int) -> np.ndarray:
        tokens, _ = encode(model, [str(texts[index])])
        return np.concatenate([[BOS], tokens[: length - 1]])

    return Labelled([str(label) for label in rows[label_column]], read, _collate_text)


def _collate_text(examples: list[np.ndarray]) -> Batch:
    ids_BS = torch.full((len(examples), max(map(len, examples))), PAD)
    for row, ids in enumerate(examples):
        ids_BS[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
    mask_BS, padding_BS = torch.zeros_like(ids_BS, dtype=torch.bool), ids_BS == PAD
    return Batch(ids_BS, ids_BS, mask_BS, torch.empty(0, dtype=torch.int64), padding_BS, padding_BS, int((~padding_BS).sum()))


def _open_speech(recipe: Any, path: str | None, split: str, label_column: str, prepared: Path) -> Labelled:
    media, data, frontend = _open_media(path, AUDIO, split, label_column, recipe), recipe.data, recipe.frontend

    def read(index: int) -> SpeechExample:
        waveform_T = normalize(decode_audio(media.read(index), data.sample_rate))
        waveform_T = np.pad(waveform_T, (0, max(0, frontend.receptive_field - len(waveform_T))))
        return SpeechExample(waveform_T, np.zeros(frontend.num_frames(len(waveform_T)), dtype=bool))

    # One clip at a time: padding shows in the published positions, and in the statistics of a norm over time.
    return Labelled(_labels(media), read, partial(collate_speech, frontend=frontend), batch_size=1)


def _open_vision(recipe: Any, path: str | None, split: str, label_column: str, prepared: Path) -> Labelled:
    media, frontend = _open_media(path, IMAGES, split, label_column, recipe), recipe.frontend

    def read(index: int) -> VisionExample:
        view_CHW = center_view(decode_image(media.read(index)), frontend.image_size)
        return VisionExample(view_CHW, np.zeros(frontend.grid**2, dtype=bool))

    return Labelled(_labels(media), read, collate_vision)


def _open_media(path: str | None, kind: MediaKind, split: str, label_column: str, recipe: Any) -> Media:
    return open_media(path, kind, column=recipe.data.column, split=split, label_column=label_column)


def _labels(media: Media) -> list[str]:
    labels = [media.label(index) for index in range(len(media))]
    missing = labels.count(None)
    if missing:
        raise ConfigError(
            f"{media.name}: {missing} of {len(labels)} items have no label; give data with one folder per class, or --label-column NAME"
        )
    return [str(label) for label in labels]


OPENERS: dict[str, OpenLabelled] = {"text": _open_text, "speech": _open_speech, "vision": _open_vision}
