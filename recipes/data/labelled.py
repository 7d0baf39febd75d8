"""Labelled examples as micro-batches for a frozen trunk: whole clips one by one, centre views, padded sentences. No masks, and no
randomness. Which of them a recipe has is its modality's to say.

Shapes: N examples.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from model.batch import Batch
from model.frontends.config import SpeechFrontendConfig, VisionFrontendConfig
from recipes.config import SpeechDataConfig, TextDataConfig, VisionDataConfig
from recipes.data.audio import AUDIO, normalize, read_audio
from recipes.data.images import IMAGES, center_view, decode_image
from recipes.data.labelled_text import load_split
from recipes.data.media import Media, MediaKind, open_media
from recipes.data.speech import SpeechExample, collate_speech
from recipes.data.text import TextExample, collate_text
from recipes.data.tokenizer import BOS, encode
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


def labelled_text(data: TextDataConfig, path: str | None, split: str, label_column: str, tokenizer: Path) -> Labelled:
    """Sentences, cut to data.sequence_length and padded to the longest of a batch. Raises: ConfigError, MissingSplit."""
    rows = load_split(path, split, (data.text_column, label_column))
    texts = rows[data.text_column]

    def read(index: int) -> TextExample:
        tokens, _ = encode(str(tokenizer), [str(texts[index])])
        ids_T = np.concatenate([[BOS], tokens[: data.sequence_length - 1]]).astype(np.int64)
        return TextExample(ids_T, ids_T, np.zeros(len(ids_T), dtype=bool))

    return Labelled([str(label) for label in rows[label_column]], read, partial(collate_text, always_padded=True))


def labelled_speech(data: SpeechDataConfig, frontend: SpeechFrontendConfig, path: str | None, split: str, label_column: str) -> Labelled:
    """Whole recordings, one at a time: padding shows in the published positions, and in the statistics of a norm over time.

    Raises: ConfigError, MissingSplit.
    """
    media = _open(path, AUDIO, data.column, split, label_column)

    def read(index: int) -> SpeechExample:
        waveform_T = normalize(read_audio(media, index, data.sample_rate))
        waveform_T = np.pad(waveform_T, (0, max(0, frontend.receptive_field - len(waveform_T))))
        return SpeechExample(waveform_T, np.zeros(frontend.num_frames(len(waveform_T)), dtype=bool))

    return Labelled(_labels(media), read, partial(collate_speech, frontend=frontend), batch_size=1)


def labelled_images(data: VisionDataConfig, frontend: VisionFrontendConfig, path: str | None, split: str, label_column: str) -> Labelled:
    """Central views. Raises: ConfigError, MissingSplit."""
    media = _open(path, IMAGES, data.column, split, label_column)

    def read(index: int) -> VisionExample:
        view_CHW = center_view(decode_image(media.read(index)), frontend.image_size)
        return VisionExample(view_CHW, np.zeros(frontend.grid**2, dtype=bool))

    return Labelled(_labels(media), read, collate_vision)


def _open(path: str | None, kind: MediaKind, column: str, split: str, label_column: str) -> Media:
    return open_media(path, kind, column=column, split=split, label_column=label_column)


def _labels(media: Media) -> list[str]:
    labels = [media.label(index) for index in range(len(media))]
    missing = labels.count(None)
    if missing:
        raise ConfigError(
            f"{media.name}: {missing} of {len(labels)} items have no label; give data with one folder per class, or --label-column NAME"
        )
    return [str(label) for label in labels]
