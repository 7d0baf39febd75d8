"""The labels of opened recordings or images, as they are in the data: cells of a column, or the folders of the files. What a cell means
is decided in targets.py; Media.label gives class names only."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from recipes.data.media import Files, Media
from recipes.data.media_table import Table


class MediaLabels(NamedTuple):
    """The label of each item."""

    cells: Sequence[Any]
    """Cell or folder of each item; None if it has none."""
    class_names: Sequence[str] | None
    """Names of numbered classes; None if the cells have the names."""
    exist: bool
    """False if the data have neither a column of labels nor folders of classes."""


def labels_of(media: Media, label_column: str, *, may_be_folders: bool = True) -> MediaLabels:
    """Return the labels of all items. `label_column`: the column with which the media were opened. A folder of files has the classes of its
    sub-folders, unless `may_be_folders` is False, as for transcripts."""
    if not (may_be_folders or media.columns):
        return MediaLabels([None] * len(media), None, False)
    if isinstance(media, Table):
        exist = label_column in media.columns
        feature = media.dataset.features.get(label_column)
        cells = media.dataset.with_format("arrow")[label_column].to_pylist() if exist else [None] * len(media)
        return MediaLabels(cells, getattr(feature, "names", None), exist)
    if isinstance(media, Files) and media.labels is not None:
        return MediaLabels(media.labels, None, not media.columns or label_column in media.columns)
    cells = [media.label(index) for index in range(len(media))]
    return MediaLabels(cells, None, any(cell is not None for cell in cells))
