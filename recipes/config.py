"""What is learned: the Recipe and its sections. Torch-free. How they are set, stored and compared: recipes/settings.py; how it runs
(ds_configs): recipes/ds_config.py.

A bound stands beside its number (model/bounds.py). A field that is added later gets a default under which old runs are what they were,
or an `Absent` value for them.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from model.bounds import PART, POSITIVE, SHARE, Bounds, Place, at_least, between
from model.config import EncoderConfig, LossConfig, MaskConfig, TeacherConfig, TokenMaskConfig
from model.frontends.config import FrontendConfig, TextFrontendConfig
from recipes.errors import ConfigError


@dataclass(frozen=True)
class DataConfig:
    """What the loop asks of every data section. A modality makes a field of what its users may set."""

    kind: ClassVar[str]

    @property
    def path(self) -> str | None:
        """Where the data are; None is the shipped sample."""
        return None

    @property
    def group_size(self) -> int:
        """Consecutive samples of the global batch that share what samples must share."""
        return 1

    @property
    def num_workers(self) -> int:
        """Processes per rank that read."""
        return 0

    @property
    def max_bad_fraction(self) -> float:
        """Share of undecodable samples above which the run ends."""
        return 0.0


@dataclass(frozen=True)
class TextDataConfig(DataConfig):
    """Text corpus, tokenizer and packing."""

    kind: ClassVar[str] = "text"
    path: Annotated[str | None, Place()] = None
    """Folder, file, prepared folder or hub name; None is the shipped sample (`--data` sets it)."""
    split: str | None = None
    """Part of `path` that is trained on: train, valid, test, the name of a folder or file in it, or all. None: what its names call train,
    and everything where no name tells."""
    text_column: str = "text"
    tokenizer: Annotated[str | None, Place()] = None
    """A sentencepiece .model file; None trains one with frontend.vocab_size symbols."""
    tokenizer_type: Literal["unigram", "bpe"] = "bpe"
    lowercase: bool = False
    tokenizer_sample_megabytes: Annotated[int, at_least(1)] = 200
    """Text that the tokenizer is trained on, at most."""
    sequence_length: Annotated[int, at_least(2)] = 512
    """Tokens per sample, `<s>` included."""
    break_mode: Literal["none", "complete_doc"] = "complete_doc"
    """none: the token stream cut every sequence_length - 1. complete_doc: whole lines of one document (published)."""
    heldout_fraction: Annotated[float, PART] = 0.01
    """Share of the text kept for eval_loss."""


@dataclass(frozen=True)
class SpeechDataConfig(DataConfig):
    """Recordings, their lengths, and the groups that share a crop length."""

    kind: ClassVar[str] = "speech"
    path: Annotated[str | None, Place()] = None
    """Folder, manifest (.tsv, .csv, .jsonl), parquet, `datasets` folder, prepared folder or hub name; None is the shipped sample."""
    split: str | None = None
    """Part of `path` that is trained on: train, valid, test, the name of a folder or file in it, or all. None: what its names call train,
    and everything where no name tells."""
    column: str = "audio"
    """Column of a table that holds the audio bytes, or of a manifest that holds the file's path."""
    sample_rate: Annotated[int, at_least(1)] = 16_000
    """Everything else is resampled to this rate (Hz)."""
    min_seconds: Annotated[float, at_least(0)] = 2.0
    """Shorter recordings are left out (published)."""
    max_seconds: Annotated[float, POSITIVE] = 20.0
    """Longer ones are cropped (published)."""
    group_size: Annotated[int, at_least(1)] = 8
    """Samples that share one crop length, that of the shortest, and one masked count, the smallest. A fixed part of the
    global batch, so that neither depends on ranks; a micro-batch lies within one group."""
    heldout_fraction: Annotated[float, PART] = 0.01
    """Share of the recordings kept for eval_loss."""
    max_bad_fraction: Annotated[float, SHARE] = 0.01
    """Share of undecodable recordings above which the run ends."""
    num_workers: Annotated[int, between(0, 256)] = 2
    """Processes per rank that decode; 0 decodes in the training process."""


@dataclass(frozen=True)
class VisionDataConfig(DataConfig):
    """Images and how each epoch sees them (data2vec's vision release, beit/datasets.py)."""

    kind: ClassVar[str] = "vision"
    path: Annotated[str | None, Place()] = None
    """Folder of images, parquet, `datasets` folder, prepared folder or hub name; None is the shipped sample."""
    split: str | None = None
    """Part of `path` that is trained on: train, valid, test, the name of a folder or file in it, or all. None: what its names call train,
    and everything where no name tells."""
    column: str = "image"
    """Column of a table that holds the image bytes."""
    crop_scale: Annotated[tuple[float, float], Bounds(above=0, most=1)] = (0.08, 1.0)
    """Share of the image's area that the random crop takes."""
    color_jitter: Annotated[float, SHARE] = 0.4
    """Brightness, contrast and saturation change by up to this share."""
    flip_prob: Annotated[float, SHARE] = 0.5
    heldout_fraction: Annotated[float, PART] = 0.01
    """Share of the images kept for eval_loss."""
    max_bad_fraction: Annotated[float, SHARE] = 0.01
    """Share of undecodable images above which the run ends."""
    num_workers: Annotated[int, between(0, 256)] = 2
    """Processes per rank that decode; 0 decodes in the training process."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised, and the arithmetic that a plan needs of it. `kind` names it in config.json: an objective of the house, or
    "module:Class" for one outside, whose `Config` this is."""

    kind: ClassVar[str]
    forwards_per_update: ClassVar[int] = 3
    """Forwards of the trunk that one update costs: the student's, two for its backward, and one of each further network."""
    num_teachers: ClassVar[int] = 0
    """Averaged copies of the trunk that are held beside the student."""

    def num_head_parameters(self, encoder: EncoderConfig) -> int:
        """Parameters of the student beside its trunk."""
        return 0

    def check(self, recipe: "Recipe") -> None:
        """Raises: ConfigError for settings that contradict each other."""


@dataclass(frozen=True)
class Data2VecConfig(ObjectiveConfig):
    """data2vec 1.0; its numbers are the sections teacher and loss."""

    kind: ClassVar[str] = "data2vec"
    forwards_per_update: ClassVar[int] = 4
    num_teachers: ClassVar[int] = 1

    def num_head_parameters(self, encoder: EncoderConfig) -> int:
        """The regression head."""
        return encoder.num_head_parameters

    def check(self, recipe: "Recipe") -> None:
        """Raises: ConfigError where more layers are averaged than there are."""
        top, layers = recipe.teacher.average_top_k_layers, recipe.model.num_layers
        if not 1 <= top <= layers:
            raise ConfigError(
                f"teacher.average_top_k_layers {top} of model.num_layers {layers}; "
                f"use --set teacher.average_top_k_layers=N with N from 1 to {layers}"
            )


OBJECTIVES: dict[str, type[ObjectiveConfig]] = {Data2VecConfig.kind: Data2VecConfig}
"""The sections of the house's objectives, by kind."""


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer's numbers; which implementation runs is the ds_config's `optimizer.type`."""

    lr: Annotated[float, POSITIVE] = 2e-4
    betas: Annotated[tuple[float, float], PART] = (0.9, 0.98)
    eps: Annotated[float, at_least(0)] = 1e-6
    weight_decay: Annotated[float, at_least(0)] = 0.01
    """Decoupled (fairseq's adam)."""
    decay_norms_and_biases: bool = True
    """True as fairseq for text and speech; False leaves out biases and every 1-D parameter."""
    clip_norm: Annotated[float, at_least(0)] = 5.0
    """Global gradient norm; 0 is no clipping."""
    schedule: Literal["cosine", "tri_stage"] = "cosine"
    schedule_steps: Annotated[int, at_least(1)] = 1_000_000
    """The schedule's horizon in updates; stopping earlier or later does not bend it."""
    warmup_steps: Annotated[int, at_least(0)] = 10_000
    decay_steps: Annotated[int, at_least(0)] = 0
    """tri_stage only: length of the last stage."""
    final_lr_scale: Annotated[float, SHARE] = 0.0
    """Last rate as a fraction of lr (tri_stage also starts there)."""

    @property
    def last_lr(self) -> float:
        """The rate from schedule_steps on."""
        return self.lr if self.schedule == "tri_stage" and self.decay_steps == 0 else self.final_lr_scale * self.lr


@dataclass(frozen=True)
class RunConfig:
    """One run: how long, how large a batch, what is written when."""

    seed: Annotated[int, between(0, 2**63 - 1)] = 1
    max_steps: Annotated[int, at_least(1)] = 1_000_000
    global_batch_size: Annotated[int, between(1, 2**20)] = 256
    """Samples of one optimizer update, over all ranks and micro-batches."""
    log_steps: Annotated[int, at_least(1)] = 100
    save_steps: Annotated[int, at_least(1)] = 5_000
    eval_steps: Annotated[int, at_least(1)] = 5_000
    eval_samples: Annotated[int, at_least(0)] = 1_024
    """Held-out samples per evaluation, at most."""
    deterministic: bool = False
    """Ask torch for deterministic kernels (CUDA; CPU runs repeat bit for bit anyway)."""
    wandb: Literal["off", "offline", "online"] = "off"
    max_minutes: Annotated[float, at_least(0)] = 0.0
    """Save and leave with exit code 75 at the first update after so long; 0 is no limit."""
    hang_seconds: Annotated[float, at_least(0)] = 540.0
    """No update and no other sign of progress for so long is a hang: stacks are written, the rank behind is named, the run ends;
    0 never. Less than the 600 s after which NCCL ends a rank, naming nobody."""
    accept_changes: tuple[str, ...] = ()
    """Settings in which a resumed run may differ from the run so far: optim.lr,data.path"""


@dataclass(frozen=True)
class GuardConfig:
    """What ends a run, and what keeps an update from being applied. The collapse monitor has fairseq's thresholds
    (data2vec_audio.py: `min_target_var`, `min_pred_var`, which are stds)."""

    min_target_std: Annotated[float, at_least(0)] = 0.1
    min_pred_std: Annotated[float, at_least(0)] = 0.01
    after_steps: Annotated[int, at_least(0)] = 5_000
    max_skipped_in_a_row: Annotated[int, at_least(1)] = 50
    """Skipped updates before the run ends (not published; fp16's loss scale may need a dozen to settle)."""
    spike: Literal["off", "report", "skip"] = "report"
    """What becomes of an update whose loss or gradient norm is a spike: nothing, an event, or an event and it is not applied."""
    spike_deviations: Annotated[float, at_least(1)] = 10.0
    """Robust standard deviations (1.4826 x median absolute deviation) above the median that make a spike (not published; gradient
    norms are heavy-tailed, so the 3 to 6 of normally distributed values would cry wolf)."""
    spike_window: Annotated[int, at_least(8)] = 128
    """Applied updates that median and deviation are taken over; before as many there are no spikes."""


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoints stay on the disk; free to change from one launch to the next."""

    keep_last: Annotated[int, at_least(1)] = 3
    """The newest ones; 2 at least, so that a damaged newest one has one before it."""
    keep_every_steps: Annotated[int, at_least(0)] = 0
    """Those at multiples of this step stay for ever; 0 keeps none."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run learns. A number here is never in the ds_config."""

    name: str
    modality: str
    model: EncoderConfig = field(default_factory=EncoderConfig)
    frontend: FrontendConfig = field(default_factory=TextFrontendConfig)
    mask: MaskConfig = field(default_factory=TokenMaskConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=TextDataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    objective: ObjectiveConfig = field(default_factory=Data2VecConfig)
