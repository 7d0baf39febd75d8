"""Reads labelled images for a prepared folder (labelled_prepare.py). The images stay in their files, or are copied as bytes if they are
rows of a table. Their sizes are read and nothing is decoded, as in pre-training (scanning.py).

    items-0/           the images of one split of the data: paths or table (media_items.py), and location.json
    items-0.json       hash over their names and sizes, which stands for them in the folder's fingerprint

Shapes: N samples.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recipes.config import Recipe
from recipes.data.folder import printable
from recipes.data.images import IMAGES
from recipes.data.labelled_folder import Log
from recipes.data.labelled_media import open_labelled_media
from recipes.data.labelled_prepare import Encoded, RawSplit
from recipes.data.media import BadItem, Media, allowed_bad, format_bad_items
from recipes.data.media_items import open_items, save_items
from recipes.data.media_labels import labels_of
from recipes.data.progress import ByteProgress
from recipes.data.scanning import scan_items
from recipes.errors import ConfigError
from recipes.labelled_config import LabelledVisionDataConfig

LOCATION = "location.json"


class Picture(NamedTuple):
    """One image: the number of the split that it was read from, and its number there."""

    split: int
    item: int


@dataclass
class _Split:
    """A split of the data that was read, and for each of its images True if the file can be read (None: not yet looked for)."""

    media: Media
    is_readable: np.ndarray | None = None


def open_images(data: LabelledVisionDataConfig, split: str) -> Media:
    """Open the images of a split of the data. Raises: ConfigError; MissingSplit if there is none."""
    if data.path is None:
        raise ConfigError(
            "--data is missing; name a folder of class folders, a list of files with a column of labels, parquet or a hub name"
        )
    return open_labelled_media(data.path, IMAGES, column=data.column, split=split, label_column=data.label_column)


class LabelledVisionReader:
    """Reads the splits of a folder of class folders, a list of files, parquet or a hub data set. Implements Reader."""

    def __init__(self, recipe: Recipe, log: Log, num_processes: int | None = None) -> None:
        """`log` gets a line for each split that is read. `num_processes`: most processes that read sizes; None: one for each core."""
        assert isinstance(recipe.data, LabelledVisionDataConfig)
        self._data: LabelledVisionDataConfig = recipe.data
        self.source = str(recipe.data.path)
        self._log, self._num_processes = log, num_processes or len(os.sched_getaffinity(0))
        self._splits: list[_Split] = []
        self._folder: Path | None = None

    def read(self, split: str) -> RawSplit:
        """Read the labels of a split: the folder of each file, or the column of the labels."""
        media = open_images(self._data, split)
        if media.note:
            self._log(media.note)
        self._splits.append(_Split(media))
        number = len(self._splits) - 1
        labels, pictures = labels_of(media, self._data.label_column), [Picture(number, item) for item in range(len(media))]
        return RawSplit(split, pictures, labels.cells, labels.class_names, media.columns, labels.exist)

    def begin(self, folder: Path, contents: Sequence[Picture]) -> dict[str, Any]:
        """Remember the folder. Return {}: training images determine nothing for the other splits."""
        self._folder = folder
        return {}

    def encode(self, contents: Sequence[Picture], targets: Sequence[Any] | None) -> Encoded:
        """Return `items`, the number of each image in the folder `items-M`, and `media`, the one number M. An image that cannot be read is
        left out. Raises: ConfigError if there are too many of them."""
        number = contents[0].split if contents else 0
        split = self._splits[number]
        if split.is_readable is None:
            split.is_readable = self._save_items(number, split.media)
        kept = [row for row, picture in enumerate(contents) if split.is_readable[picture.item]]
        items = [contents[row].item for row in kept]
        arrays = {"items": np.array(items, dtype=np.int64), "media": np.array([number], dtype=np.int64)}
        left_out = {"whose files cannot be read": len(contents) - len(kept)} if len(kept) < len(contents) else {}
        return Encoded(kept, [_shown(split.media, item) for item in items], arrays, left_out)

    def _save_items(self, number: int, media: Media) -> np.ndarray:
        """Write where the images are, and read their sizes. Return for each image True if it can be read."""
        assert self._folder is not None
        folder = self._folder / f"items-{number}"
        folder.mkdir()
        place = save_items(media, folder)
        (folder / LOCATION).write_text(json.dumps({"name": media.name, "place": place}))
        bar = ByteProgress("scanning", 0, show_bar=False, log=self._log)
        scanned = scan_items(folder, media.name, place, scan=None, num_items=len(media), num_processes=self._num_processes, progress=bar)
        bar.close()
        self._check_bad(media, scanned.bad)
        folder.with_suffix(".json").write_text(json.dumps({"fingerprint": scanned.fingerprint}))
        return scanned.lengths_N > 0

    def _check_bad(self, media: Media, bad: Sequence[BadItem]) -> None:
        allowed = allowed_bad(len(media), self._data.max_bad_fraction)
        if len(bad) > allowed:
            raise ConfigError(
                f"{media.name}: {len(bad)} of {len(media)} images cannot be read, more than the {allowed} that data.max_bad_fraction "
                f"{self._data.max_bad_fraction:g} allows: {format_bad_items(bad)}; fix or remove them"
            )
        if bad:
            self._log(f"{media.name}: images that cannot be read: {format_bad_items(bad)}")


def _shown(media: Media, item: int) -> str:
    """Return the image's path within the data, or the number of its row. It does not change if the data are moved."""
    return printable(media.key(item)) if media.file(item) is not None else f"row {item + 1}"


def open_pictures(folder: Path, number: int) -> Media:
    """Open the images that encode() recorded as `media` in a prepared folder. Raises: ConfigError if they are damaged or gone."""
    items = folder / f"items-{number}"
    try:
        stored = json.loads((items / LOCATION).read_text())
        name, place = stored["name"], stored["place"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{items}: not readable as prepared data ({error}); remove {folder} and prepare it again") from None
    return open_items(items, name, place)
