"""The recipe's section `data` in fine-tuning: labelled texts, recordings and images. Torch-free. Those of pre-training:
recipes/config.py."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from model.bounds import PART, POSITIVE, SHARE, Bounds, Place, at_least, between
from recipes.data_config import IMAGE_SECONDS, RECORDING_SECONDS, TOKEN_SECONDS, DataConfig


@dataclass(frozen=True)
class LabelledDataConfig(DataConfig):
    """Labelled data of any modality: where they are, their splits, and the column of the labels."""

    shown_as: ClassVar[str] = "path"
    """What a file of predictions shows of a sample, and the name of that column."""
    unprepared: ClassVar[tuple[str, ...]] = ("num_workers", "max_bad_fraction")
    """Settings of the section on which a prepared folder does not depend, such as those that are read in training."""

    path: Annotated[str | None, Place()] = None
    """Folder, parquet file or hub name. `--data` sets it."""
    split: str = "train"
    """Split that is trained on."""
    valid_split: str = "valid"
    """Split on which the best checkpoint is chosen. If the data have none of the default name, heldout_fraction of the training split is
    held out."""
    test_splits: tuple[str, ...] = ("test",)
    """Splits that are scored once, after training. One without labels is predicted only. That of the default name may be missing, which a
    line says."""
    label_column: str = "label"
    """Column that holds the class, number or transcript."""
    heldout_fraction: Annotated[float, PART] = 0.1
    """Share of the training split that becomes the validation split if the data have none."""
    max_train_samples: Annotated[int, at_least(0)] = 0
    """Number of training samples, drawn at random, the same ones in every run, and one of each class before any second one. Validation
    samples do not count. 0: all."""

    @property
    def may_be_missing(self) -> Collection[str]:
        """Names of splits that the data need not have. A split of another name was asked for."""
        return LabelledDataConfig.valid_split, *LabelledDataConfig.test_splits


@dataclass(frozen=True)
class LabelledTextDataConfig(LabelledDataConfig):
    """Texts or pairs of texts, each with a class or a number."""

    kind: ClassVar[str] = "labelled_text"
    shown_as: ClassVar[str] = "text"
    unprepared: ClassVar[tuple[str, ...]] = (*LabelledDataConfig.unprepared, "tokenizer")  # compared by its content

    text_columns: tuple[str, ...] = ("text",)
    """Column of the text, or the two columns of a pair."""
    glue_task: Literal["", "sst2", "cola", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"] = ""
    """Task of GLUE whose files, or whose columns on the hub, data.path has. `--task` sets it. "": data of another kind."""
    tokenizer: Annotated[str | None, Place()] = None
    """A sentencepiece .model file, a tokenizer.json, or a Hugging Face folder with one. None: that of the pre-trained run; with random
    weights a tokenizer is trained on the texts."""
    tokenizer_type: Literal["unigram", "bpe"] = "bpe"
    """Kind of a tokenizer that is trained here, with sentencepiece."""
    lowercase: bool = False
    """True: a tokenizer that is trained here turns text into lower case."""
    tokenizer_sample_megabytes: Annotated[int, at_least(1)] = 200
    """Most text that a tokenizer is trained on, in MB."""
    sequence_length: Annotated[int, at_least(4)] = 512
    """Most tokens of a sample, `<s>` included. A longer text is cut; of a pair the longer text is cut first."""
    max_bad_fraction: Annotated[float, SHARE] = 0.01
    """Share of rows without text or label above which the run ends."""

    @property
    def reading_seconds(self) -> float:
        """As in pre-training."""
        return TOKEN_SECONDS * self.sequence_length

    @property
    def longest_sample(self) -> int:
        """Most tokens of a sample."""
        return self.sequence_length

    @property
    def text_column(self) -> str:
        """The first column of text, which a reader of single texts takes."""
        return self.text_columns[0]

    @property
    def may_be_missing(self) -> Collection[str]:
        """The default names; of a task of GLUE all splits but that of training, since a copy may be without some of its files."""
        return (self.valid_split, *self.test_splits) if self.glue_task else super().may_be_missing


@dataclass(frozen=True)
class LabelledSpeechDataConfig(LabelledDataConfig):
    """Recordings, each with a class or a transcript."""

    kind: ClassVar[str] = "labelled_speech"
    unprepared: ClassVar[tuple[str, ...]] = (
        *LabelledDataConfig.unprepared,
        *("time_mask_prob", "time_mask_length", "channel_mask_prob", "channel_mask_length"),
    )

    column: str = "audio"
    """Column of a table that holds the audio bytes, or of a manifest that holds the path of the file."""
    sample_rate: Annotated[int, at_least(1)] = 16_000
    """Sampling rate of the network's input, in Hz. Recordings with another rate are resampled."""
    max_seconds: Annotated[float, POSITIVE] = 30.0
    """Recordings that are longer are left out of training with transcripts, and cropped for classes."""
    time_mask_prob: Annotated[float, SHARE] = 0.0
    """Share of frames that the masked spans would cover if none overlapped (published: 0.65)."""
    time_mask_length: Annotated[int, at_least(1)] = 10
    """Frames of one masked span."""
    channel_mask_prob: Annotated[float, SHARE] = 0.0
    """Share of channels that the masked spans would cover if none overlapped (published: 0.25 to 0.5)."""
    channel_mask_length: Annotated[int, at_least(1)] = 64
    """Channels of one masked span."""
    max_bad_fraction: Annotated[float, SHARE] = 0.01
    """Share of undecodable recordings above which the run ends."""
    num_workers: Annotated[int | None, between(0, 256)] = None
    """Processes per rank that decode. 0: the training process decodes. None: the cores of the node / its ranks - 2, from 1 to 32."""

    @property
    def reading_seconds(self) -> float:
        """As in pre-training."""
        return RECORDING_SECONDS * self.max_seconds

    @property
    def longest_sample(self) -> int:
        """Raw samples of max_seconds."""
        return int(self.max_seconds * self.sample_rate)


@dataclass(frozen=True)
class LabelledVisionDataConfig(LabelledDataConfig):
    """Images, each with a class, and their augmentation. Source: data2vec's vision release, beit/datasets.py build_transform."""

    kind: ClassVar[str] = "labelled_vision"
    has_whole_groups: ClassVar[bool] = True
    unprepared: ClassVar[tuple[str, ...]] = (
        *LabelledDataConfig.unprepared,
        *("crop_scale", "flip_prob", "rand_augment_ops", "rand_augment_magnitude", "erase_prob", "mixup_alpha", "cutmix_alpha"),
    )

    column: str = "image"
    """Column of a table that holds the image bytes."""
    crop_scale: Annotated[tuple[float, float], Bounds(above=0, most=1)] = (0.08, 1.0)
    """Smallest and largest share of the image's area that a random crop takes."""
    flip_prob: Annotated[float, SHARE] = 0.5
    """Probability of a horizontal flip."""
    rand_augment_ops: Annotated[int, at_least(0)] = 0
    """Random changes of each image by torchvision's RandAugment (published: 2). 0: none. It needs the extra `vision`."""
    rand_augment_magnitude: Annotated[int, between(0, 30)] = 9
    """Strength of these changes, of 30 (published: 27, which is timm's m9 of 10)."""
    erase_prob: Annotated[float, SHARE] = 0.0
    """Probability that a random rectangle is replaced by noise (published: 0.25). It needs the extra `vision`."""
    mixup_alpha: Annotated[float, at_least(0)] = 0.0
    """Parameter of the Beta distribution of the share with which two images are mixed (published: 0.8). 0: none are."""
    cutmix_alpha: Annotated[float, at_least(0)] = 0.0
    """The same for a rectangle that is cut out of another image (published: 1.0). With both, one of them is drawn for each pair."""
    max_bad_fraction: Annotated[float, SHARE] = 0.01
    """Share of undecodable images above which the run ends."""
    num_workers: Annotated[int | None, between(0, 256)] = None
    """Processes per rank that decode. 0: the training process decodes. None: the cores of the node / its ranks - 2, from 1 to 32."""

    @property
    def reading_seconds(self) -> float:
        """As in pre-training."""
        return IMAGE_SECONDS

    @property
    def group_size(self) -> int:
        """2 if images are mixed in pairs, else 1."""
        return 2 if self.mixup_alpha or self.cutmix_alpha else 1
