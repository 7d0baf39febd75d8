"""The data of a run: what is read, and how samples are made of it. Torch-free."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from model.bounds import PART, POSITIVE, SHARE, Absent, Bounds, Place, at_least, between

TOKEN_SECONDS, RECORDING_SECONDS, IMAGE_SECONDS = 0.35e-3 / 512, 1.1e-3, 7e-3
"""Seconds of one worker process for a token, a second of a recording, and an image. Source: benchmarks/data_wait.py, two cores of an AMD
EPYC (Zen 4), docs/performance.md."""


@dataclass(frozen=True)
class DataConfig:
    """Base of the data sections: the properties that the training loop reads. Each modality has a subclass with settings, which replace
    some of these properties."""

    kind: ClassVar[str]
    has_whole_groups: ClassVar[bool] = False
    """False: a micro-batch lies within one group of group_size samples. True: it consists of whole groups."""

    @property
    def path(self) -> str | None:
        """Path or hub name of the data; None is the sample that this repository contains."""
        return None

    @property
    def group_size(self) -> int:
        """Number of consecutive samples of the global batch that depend on each other: in speech they are cropped to one length, in
        fine-tuning on images they are mixed. 1: samples are independent."""
        return 1

    @property
    def num_workers(self) -> int | None:
        """Processes of each rank that read data. 0: the training process reads. None: as many as its cores allow."""
        return 0

    @property
    def longest_sample(self) -> int:
        """Length of the longest possible sample: tokens of a text, or raw samples of a waveform. 0: all samples have the front-end's
        size."""
        return 0

    @property
    def reading_seconds(self) -> float:
        """Seconds in which one worker process makes a sample: decode, augment, crop, mask. 0: not known."""
        return 0.0

    @property
    def max_bad_fraction(self) -> float:
        """The run ends if more than this share of the samples cannot be decoded."""
        return 0.0


@dataclass(frozen=True)
class TextDataConfig(DataConfig):
    """Text corpus, tokenizer, and how samples are cut from the text."""

    kind: ClassVar[str] = "text"
    path: Annotated[str | None, Place()] = None
    """Folder, file, prepared folder or hub name. None: the shipped sample. `--data` sets it."""
    split: str | None = None
    """Part of the data that is trained on: train, valid, test, the name of a folder or file in it, or all. None: the part that names
    mark as train, or everything if none is marked."""
    text_column: str = "text"
    """Column of a csv, tsv, jsonl or parquet table, or of a hub data set, that holds the text."""
    tokenizer: Annotated[str | None, Place()] = None
    """A sentencepiece .model file, a tokenizer.json, or a Hugging Face folder with one. None: a tokenizer with frontend.vocab_size symbols
    is trained on the data."""
    tokenizer_type: Literal["unigram", "bpe"] = "bpe"
    """Kind of a tokenizer that is trained here, with sentencepiece."""
    lowercase: bool = False
    """True: the tokenizer turns text into lower case. A given one must do so."""
    tokenizer_sample_megabytes: Annotated[int, at_least(1)] = 200
    """Most text that a tokenizer is trained on, in MB."""
    sequence_length: Annotated[int, at_least(2)] = 512
    """Tokens of a sample, `<s>` included."""
    break_mode: Literal["none", "complete_doc"] = "complete_doc"
    """none: the stream of tokens is cut every sequence_length - 1. complete_doc: a sample is made of whole lines of one document
    (published)."""
    packing: Literal["padded", "documents"] = "padded"
    """What a row of sequence_length tokens holds. padded: one sample, then padding (published). documents: as many samples as fit, which do
    not attend to each other; a third less is computed where documents are short. run.global_batch_size then counts rows. It needs
    break_mode complete_doc."""
    heldout_fraction: Annotated[float, PART] = 0.01
    """Share of the text that is not trained on and gives eval_loss."""

    @property
    def reading_seconds(self) -> float:
        """0.35 ms for 512 tokens."""
        return TOKEN_SECONDS * self.sequence_length

    @property
    def longest_sample(self) -> int:
        """Tokens of a sample."""
        return self.sequence_length


@dataclass(frozen=True)
class SpeechDataConfig(DataConfig):
    """Recordings, their lengths, and the groups of samples that are cropped to one length."""

    kind: ClassVar[str] = "speech"
    path: Annotated[str | None, Place()] = None
    """Folder, manifest (.tsv, .csv, .jsonl), parquet, `datasets` folder, prepared folder or hub name. None: the shipped sample.
    `--data` sets it."""
    split: str | None = None
    """Part of the data that is trained on: train, valid, test, the name of a folder or file in it, or all. None: the part that names
    mark as train, or everything if none is marked."""
    column: str = "audio"
    """Column of a table that holds the audio bytes, or of a manifest that holds the path of the file."""
    sample_rate: Annotated[int, at_least(1)] = 16_000
    """Sampling rate of the network's input, in Hz. Recordings with another rate are resampled."""
    min_seconds: Annotated[float, at_least(0)] = 2.0
    """Recordings shorter than this many seconds are left out (published)."""
    max_seconds: Annotated[float, POSITIVE] = 20.0
    """Recordings longer than this many seconds are cropped (published)."""
    whole_seconds: Annotated[float, Absent(0.0), at_least(0)] = 120.0
    """Of recordings longer than this many seconds only the crop is decoded and normalised; shorter ones are decoded and normalised whole
    (published, for recordings of at most 35 s). 0: all are decoded whole, as by releases before there was a choice."""
    num_lengths: Annotated[int, between(0, 10_000)] = 0
    """Crops are rounded down to one of this many lengths, evenly spaced from the shortest allowed recording to max_seconds. With about 20 a
    GPU uses its plans of convolutions again, for some audio that is cut off. 0: lengths are not rounded (published)."""
    group_size: Annotated[int, at_least(1)] = 8
    """Consecutive samples of the global batch that are cropped to the shortest of them and get the smallest masked count. A
    micro-batch lies within one group, so neither depends on the number of ranks."""
    heldout_fraction: Annotated[float, PART] = 0.01
    """Share of the recordings that is not trained on and gives eval_loss."""
    max_bad_fraction: Annotated[float, SHARE] = 0.01
    """Share of undecodable recordings above which the run ends."""
    num_workers: Annotated[int | None, between(0, 256)] = None
    """Processes per rank that decode. 0: the training process decodes. None: the cores of the node / its ranks - 2, from 1 to 32."""

    @property
    def reading_seconds(self) -> float:
        """1.1 ms for each second of flac."""
        return RECORDING_SECONDS * self.max_seconds

    @property
    def longest_sample(self) -> int:
        """Raw samples of max_seconds."""
        return int(self.max_seconds * self.sample_rate)


@dataclass(frozen=True)
class VisionDataConfig(DataConfig):
    """Images and their augmentation (data2vec's vision release, beit/datasets.py)."""

    kind: ClassVar[str] = "vision"
    path: Annotated[str | None, Place()] = None
    """Folder of images, parquet, `datasets` folder, prepared folder or hub name. None: the shipped sample. `--data` sets it."""
    split: str | None = None
    """Part of the data that is trained on: train, valid, test, the name of a folder or file in it, or all. None: the part that names
    mark as train, or everything if none is marked."""
    column: str = "image"
    """Column of a table that holds the image bytes."""
    crop_scale: Annotated[tuple[float, float], Bounds(above=0, most=1)] = (0.08, 1.0)
    """Smallest and largest share of the image's area that a random crop takes."""
    color_jitter: Annotated[float, SHARE] = 0.4
    """Largest relative change of brightness, contrast and saturation."""
    flip_prob: Annotated[float, SHARE] = 0.5
    """Probability of a horizontal flip."""
    draft_decoding: bool = False
    """True: a JPEG whose crop is at least 4 times as wide and high as frontend.image_size is decoded at 1/2, 1/4 or 1/8 of its size, so
    that the crop is still twice as large as the view. Faster for photographs of a camera, other pixels by a few of 255."""
    views_on: Literal["workers", "device"] = "workers"
    """Where training images are jittered, cropped and resized. workers: in the processes that decode, by Pillow. device: on the network's
    device, from whole images, by the same steps within 1 of 255."""
    heldout_fraction: Annotated[float, PART] = 0.01
    """Share of the images that is not trained on and gives eval_loss."""
    max_bad_fraction: Annotated[float, SHARE] = 0.01
    """Share of undecodable images above which the run ends."""
    num_workers: Annotated[int | None, between(0, 256)] = None
    """Processes per rank that decode. 0: the training process decodes. None: the cores of the node / its ranks - 2, from 1 to 32."""

    @property
    def reading_seconds(self) -> float:
        """7 ms for a JPEG of 110 KB."""
        return IMAGE_SECONDS
