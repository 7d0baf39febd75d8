"""Labelled examples as micro-batches for a frozen trunk (the network without its head): whole recordings one by one, central views of
images, padded sentences. No masks and no randomness. The probe (recipes/finetune) chooses the splits and examples.

Shapes: N examples.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from model.batch import Batch
from model.frontends.config import VisionFrontendConfig
from model.frontends.speech_config import SpeechFrontendConfig
from recipes.data.audio import AUDIO, read_audio
from recipes.data.examples import ImageMaker, SpeechMaker, TextMaker
from recipes.data.images import IMAGES, decode_image
from recipes.data.labelled_text import load_split
from recipes.data.labels import class_name, is_missing
from recipes.data.media import BadItem, Media, MediaKind, UndecodableError, allowed_bad, bad_item, format_bad_items
from recipes.data.media_source import open_media
from recipes.data.speech import SpeechExample
from recipes.data.text import TextExample
from recipes.data.vision import VisionExample
from recipes.data_config import SpeechDataConfig, TextDataConfig, VisionDataConfig
from recipes.errors import ConfigError
from recipes.labelled_config import LabelledTextDataConfig

BATCH = 32
Collate = Callable[[list[Any]], Batch]


@dataclass(frozen=True)
class Labelled:
    """One split of a labelled data set: the class of each example, and the functions that read and batch the examples."""

    name: str
    """Name of the data set, for messages."""
    labels: list[str | None]
    """Class of each example. None: the example has no class, or no content."""
    read: Callable[[int], Any]
    """Index -> example. Raises: OSError, UndecodableError."""
    where: Callable[[int], str]
    """Index -> location of the example, for messages."""
    collate: Collate
    columns: Sequence[str] = ()
    """Columns of the table that the labels come from; () if they do not come from a table."""
    max_bad_fraction: float = 0.0
    batch_size: int = BATCH

    def batches(self, indices: list[int], bad: dict[str, BadItem]) -> Iterator[tuple[list[int], Batch]]:
        """Read the examples of `indices` in order, in batches of at most batch_size. Yield (indices of the examples in the batch, batch).
        An example that cannot be decoded is left out and added to `bad`, with its location as the key.

        Raises: ConfigError if more examples cannot be decoded than max_bad_fraction allows.
        """
        num_bad, allowed = 0, allowed_bad(len(indices), self.max_bad_fraction)
        for start in range(0, len(indices), self.batch_size):
            numbers, examples = [], []
            for index in indices[start : start + self.batch_size]:
                try:
                    examples.append(self.read(index))
                    numbers.append(index)
                except (OSError, UndecodableError) as error:
                    num_bad += 1
                    bad[self.where(index)] = bad_item(self, index, error)
            if num_bad > allowed:
                raise ConfigError(
                    f"{self.name}: {num_bad} of {len(indices)} examples cannot be decoded, more than the {allowed} that the run's "
                    f"data.max_bad_fraction {self.max_bad_fraction:g} allows: {format_bad_items(list(bad.values()))}; fix or remove them"
                )
            if examples:
                yield numbers, self.collate(examples)


def labelled_text(
    data: TextDataConfig | LabelledTextDataConfig, path: str | None, split: str, label_column: str, maker: TextMaker
) -> Labelled:
    """Open one split of labelled sentences. `maker` tokenizes each of them and cuts it to its maximum number of tokens. Batches are
    padded to their longest sentence. Labels are read from the column `label_column`.

    Raises: ConfigError if the data cannot be read; MissingSplit if there is no such split.
    """
    texts, labels, columns = load_split(path, split, data.text_column, label_column)

    def read(index: int) -> TextExample:
        return maker.of_text(str(texts[index])).example

    classes = [None if is_missing(text) else label for text, label in zip(texts, labels, strict=True)]
    where = f"{path} {split} row {{}}".format
    return Labelled(str(path), classes, read, where, maker.collate, columns=columns)


def labelled_speech(data: SpeechDataConfig, frontend: SpeechFrontendConfig, path: str | None, split: str, label_column: str) -> Labelled:
    """Open one split of labelled recordings. They are read whole and batched one at a time, because padding would change the published
    positional embedding and the statistics of a norm over time. Only a recording that is shorter than one frame is padded.

    Raises: ConfigError if the data cannot be read; MissingSplit if there is no such split.
    """
    media, maker = _open_media(path, AUDIO, data.column, split, label_column), SpeechMaker(frontend, data.sample_rate)

    def read(index: int) -> SpeechExample:
        return maker.of_waveform(read_audio(media, index, data.sample_rate))

    return _from_media(media, read, maker.collate, data.max_bad_fraction, batch_size=1)


def labelled_images(data: VisionDataConfig, frontend: VisionFrontendConfig, path: str | None, split: str, label_column: str) -> Labelled:
    """Open one split of labelled images. Each is read as its central square, resized to frontend.image_size pixels (images.center_view).

    Raises: ConfigError if the data cannot be read; MissingSplit if there is no such split.
    """
    media, maker = _open_media(path, IMAGES, data.column, split, label_column), ImageMaker(frontend)

    def read(index: int) -> VisionExample:
        return maker.of_image(decode_image(media.read(index)))

    return _from_media(media, read, maker.collate, data.max_bad_fraction)


def _open_media(path: str | None, kind: MediaKind, column: str, split: str, label_column: str) -> Media:
    return open_media(path, kind, column=column, split=split, label_column=label_column)


def _from_media(media: Media, read: Callable[[int], Any], collate: Collate, max_bad_fraction: float, batch_size: int = BATCH) -> Labelled:
    labels = [class_name(media.label(index)) for index in range(len(media))]
    return Labelled(media.name, labels, read, media.where, collate, media.columns, max_bad_fraction, batch_size)
