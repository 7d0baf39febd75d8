"""The items of which embeddings are computed: every text of some files or tables, every recording or image, in a fixed order and with its
place. All modalities look the same from here on. What a text, recording or image becomes is in examples.py.

A text item is a line of a .txt file or a row of a table. Paragraphs are not joined, as they are for training: the number of the line is
the name of the item.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from recipes.data.examples import ExampleMaker, Made
from recipes.data.folder import printable, resolve_data_path
from recipes.data.labels import is_missing
from recipes.data.media import Files, Media, MediaKind
from recipes.data.media_source import open_media
from recipes.data.source import Rows, TableFiles, TextFiles, open_source
from recipes.data.splits import ALL
from recipes.data.text_files import read_lines
from recipes.data.text_tables import TableFile
from recipes.data_config import TextDataConfig
from recipes.errors import ConfigError
from recipes.labelled_config import LabelledTextDataConfig

COLUMN_OPTION = "--column "
"""The flag that names a table's column, for messages."""


class ItemPlace(NamedTuple):
    """Where an item is."""

    item: str
    """The place as one text: `/data/book.txt line 3`, `/data/a.wav 1.000 to 2.500 s`, `train.parquet row 17`."""
    path: str
    """Full path of the file, or the name of the table or data set that has the item as a row."""
    row: int | None
    """Number of the line or row, from 1; None if the item is no row."""


@dataclass(frozen=True)
class Items:
    """The items of one data set, addressed by index."""

    name: str
    """The data that the user named, as an absolute path or hub name."""
    note: str
    """Line for the terminal: what is read of the data and what is left out; "" if there is nothing to say."""
    num_items: int
    place: Callable[[int], ItemPlace]
    make: Callable[[int], Made]
    """Index -> example. Raises: OSError, UndecodableError."""
    num_empty: int = 0
    """Blank lines, or rows without text. They are not items."""

    def __len__(self) -> int:
        return self.num_items

    def where(self, index: int, /) -> str:
        """Return the item's place as one text, for messages."""
        return self.place(index).item


def open_texts(
    data: TextDataConfig | LabelledTextDataConfig, maker: ExampleMaker, name: str | None, split: str | None, column: str | None
) -> Items:
    """Open the texts at `name` (None: the shipped sample): each line of .txt files, or each row of tables or of a data set. `split`: None
    is all of them. `column`: the column of the texts, None: the recipe's. All texts are in memory.

    Raises: ConfigError if there is no text, if a file cannot be read, or if the column is missing; MissingSplit.
    """
    asked = TextDataConfig(path=name, split=split or ALL, text_column=column or data.text_column)
    source = open_source(asked, COLUMN_OPTION)
    assert isinstance(source, TextFiles | TableFiles | Rows)
    texts, places, num_empty = list[Any](), list[tuple[str, int, str]](), 0
    for text, path, number, unit in chain.from_iterable(_texts(source)):
        if is_missing(text):
            num_empty += 1
            continue
        texts.append(text)
        places.append((path, number, unit))
    if not texts:
        raise ConfigError(f"{source.name}: has no text, {num_empty:,} lines or rows are empty; point --data at something else")

    def place_of(index: int) -> ItemPlace:
        file, number, unit = places[index]
        return ItemPlace(f"{file} {unit} {number}", file, number)

    return Items(source.name, source.note, len(texts), place_of, lambda index: maker.make(texts[index]), num_empty)


def _texts(source: TextFiles | TableFiles | Rows) -> Iterator[Iterator[tuple[Any, str, int, str]]]:
    """Yield, for each file, its (text or None, file, number of the line or row, "line" or "row")."""
    if isinstance(source, Rows):
        source.check_column()
        rows = source.dataset.select_columns([source.column])
        yield ((row[source.column], source.name, number, "row") for number, row in enumerate(rows, start=1))
        return
    for path in source.paths:
        if isinstance(source, TextFiles):
            yield ((line.strip(), printable(str(path)), number, "line") for number, line in _whole_lines(path))
            continue
        source.check_column(path)
        yield ((row.cells[0], printable(str(path)), row.number, "row") for row in TableFile(path).rows([source.column]))


def _whole_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number of the line, line). read_lines gives a line of more than 1 MB in pieces, which are joined here."""
    held, number = list[str](), 1
    for piece in read_lines(path):
        held.append(piece)
        if piece.endswith("\n"):
            yield number, "".join(held)
            held, number = [], number + 1
    if held:
        yield number, "".join(held)


def open_recordings_or_images(
    kind: MediaKind, make: Callable[[Media, int], Made], path: str | None, split: str | None, column: str
) -> Items:
    """Open the recordings or images at `path`, as open_media does, or one single file. `make`: (media, index) -> example. `split`: None is
    all of them.

    Raises: ConfigError if there are none, or if the column is missing; MissingSplit.
    """
    media = _one_file(path, kind) or open_media(path, replace(kind, column_option=COLUMN_OPTION), column=column, split=split or ALL)

    def place_of(index: int) -> ItemPlace:
        file = media.file(index)
        return ItemPlace(printable(media.where(index)), printable(file or media.name), None if file else index + 1)

    return Items(media.name, media.note, len(media), place_of, lambda index: make(media, index))


def _one_file(path: str | None, kind: MediaKind) -> Media | None:
    """Return the item if `path` is one single recording or image, which open_media refuses."""
    full_path = None if path is None else resolve_data_path(path)
    if full_path is None or full_path.is_dir() or not full_path.name.lower().endswith(kind.suffixes):
        return None
    return Files(str(full_path), str(full_path.parent), (full_path.name,))
