"""Reads labelled recordings for a prepared folder (labelled_prepare.py): where they are, how long they are, and which of them can be used.
The recordings stay where they are; nothing is decoded.

Shapes: K recordings of a split.
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.frontends.speech_config import SpeechFrontendConfig
from recipes.config import Recipe
from recipes.data.audio import AUDIO, scan_audio
from recipes.data.folder import resolve_data_path
from recipes.data.item_lengths import scan_lengths
from recipes.data.labelled_folder import Log
from recipes.data.labelled_media import open_labelled_media
from recipes.data.labelled_prepare import Encoded, RawSplit
from recipes.data.media import Media, format_bad_items
from recipes.data.media_labels import labels_of
from recipes.errors import ConfigError
from recipes.labelled_config import LabelledSpeechDataConfig
from recipes.supervised_config import CtcConfig

TOO_FEW_FRAMES = "with a transcript that needs more frames than they have"


class Recording(NamedTuple):
    """One recording of the data, which is not decoded yet."""

    split: str
    """Split in which it is in the data; that of a held-out recording is the training split."""
    item: int
    """Number in the opened split."""
    samples: int
    """Length at the network's sample rate."""
    shown: str
    """Location for the predictions. It does not change if the data are moved."""


def open_recordings(source: str, split: str, column: str, label_column: str = "") -> Media:
    """Open a split of the recordings at `source`, an absolute path or a hub name. Raises: ConfigError; MissingSplit."""
    return open_labelled_media(source, AUDIO, column=column, split=split, label_column=label_column)


def digest_of(media: Media) -> np.ndarray:
    """Return a hash of the names of all items, by which a prepared folder recognises its data. Shapes: uint8 (32,)."""
    names = "\0".join(media.key(index) for index in range(len(media)))
    return np.frombuffer(hashlib.sha256(names.encode(errors="surrogateescape")).digest(), dtype=np.uint8)


class LabelledSpeechReader:
    """Reads the splits of a folder, list or table of recordings. Implements Reader.

    Recordings of the training split, and those held out of it, are left out if they are longer than data.max_seconds or if their transcript
    needs more frames than they have (its letters, and one more between two equal ones). Those of other splits are all kept, so that an
    error rate is one of the whole split. For classes a recording is cropped to data.max_seconds instead.
    """

    def __init__(self, recipe: Recipe, log: Log, num_processes: int | None = None) -> None:
        """`log` gets lines about recordings that cannot be read. `num_processes` None: as many as this process may use cores. Raises:
        ConfigError if no data are named."""
        assert isinstance(recipe.data, LabelledSpeechDataConfig) and isinstance(recipe.frontend, SpeechFrontendConfig)
        self._data: LabelledSpeechDataConfig = recipe.data
        self._frontend: SpeechFrontendConfig = recipe.frontend
        self._is_transcribed = isinstance(recipe.objective, CtcConfig)
        self._log, self._num_processes = log, num_processes or len(os.sched_getaffinity(0))
        self._digests: dict[str, np.ndarray] = {}
        if self._data.path is None:
            raise ConfigError("the shipped recordings have no labels; give --data a folder, list, table or hub name of labelled ones")
        self.source = str(resolve_data_path(self._data.path) or self._data.path)

    def read(self, split: str) -> RawSplit:
        """Read the lengths and labels of a split. A recording that cannot be read is None."""
        data = self._data
        media = open_recordings(self.source, split, data.column, data.label_column)
        if media.note:
            self._log(media.note)
        lengths_N, bad = scan_lengths(media, partial(scan_audio, sample_rate=data.sample_rate), self._num_processes)
        if bad:
            self._log(f"split {split}: {len(bad)} recordings cannot be read: {format_bad_items(bad)}")
        self._digests[split] = digest_of(media)
        contents = [
            Recording(split, item, length, _shown(media, item)) if length else None for item, length in enumerate(lengths_N.tolist())
        ]
        labels = labels_of(media, data.label_column, may_be_folders=not self._is_transcribed)
        return RawSplit(split, contents, labels.cells, labels.class_names, media.columns, labels.exist)

    def begin(self, folder: Path, contents: Sequence[Recording]) -> dict[str, Any]:
        """Do nothing: recordings need no file for all splits."""
        return {}

    def encode(self, contents: Sequence[Recording], targets: Sequence[Any] | None) -> Encoded:
        """Choose the recordings that can be used: `item` and `length`, the samples that are read of it, for each of the K; `split` and
        `digest` of the data that they are in."""
        left_out, kept, num_impossible = Counter[str](), list[int](), 0
        for number, recording in enumerate(contents):
            letters = targets[number] if targets is not None and self._is_transcribed else []
            is_training = targets is not None and recording.split == self._data.split
            reasons = self._reasons(recording, letters)
            if is_training and reasons:
                left_out[reasons[0]] += 1
                continue
            num_impossible += bool(reasons) and reasons[-1] == TOO_FEW_FRAMES
            kept.append(number)
        if num_impossible:
            self._log(f"split {contents[0].split}: {num_impossible} of {len(contents)} recordings {TOO_FEW_FRAMES}; their loss counts as 0")
        used = [contents[number] for number in kept]
        return Encoded(kept, [one.shown for one in used], self._arrays(used), left_out)

    def _reasons(self, recording: Recording, letters: Sequence[int]) -> list[str]:
        """Return why a recording cannot be trained on; [] if it can be."""
        if not self._is_transcribed:
            return []
        frames = self._frontend.num_frames(max(recording.samples, self._frontend.receptive_field))
        is_long = recording.samples > self._longest
        long = [f"longer than data.max_seconds {self._data.max_seconds:g}"] * is_long
        return long + [TOO_FEW_FRAMES] * (frames_needed(letters) > frames)

    def _arrays(self, used: Sequence[Recording]) -> dict[str, np.ndarray]:
        longest = max(self._longest, self._frontend.receptive_field)
        lengths = [one.samples if self._is_transcribed else min(one.samples, longest) for one in used]
        split = used[0].split if used else ""
        return {
            "item": np.array([one.item for one in used], dtype=np.int64),
            "length": np.array(lengths, dtype=np.int64),
            "split": np.array(split),
            "digest": self._digests.get(split, np.zeros(0, dtype=np.uint8)),
        }

    @property
    def _longest(self) -> int:
        """Samples of data.max_seconds."""
        return math.floor(self._data.max_seconds * self._data.sample_rate)


def frames_needed(letters: Sequence[int]) -> int:
    """Return the fewest frames on which CTC can align a transcript: its letters, and a blank between two equal ones."""
    return len(letters) + sum(one == other for one, other in pairwise(letters))


def _shown(media: Media, item: int) -> str:
    return media.key(item) if media.file(item) else f"row {item + 1}"
