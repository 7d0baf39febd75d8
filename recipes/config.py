"""What is learned: the Recipe and its sections, `--set` overrides, and the way to and from JSON. Torch-free; ds_configs
(how it runs) are read in recipes/ds_config.py."""

import difflib
import math
import types
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from model.config import BlockMaskConfig, EncoderConfig, LossConfig, SpanMaskConfig, TeacherConfig, TokenMaskConfig
from model.frontends.config import SpeechFrontendConfig, TextFrontendConfig, VisionFrontendConfig
from recipes.errors import ConfigError


@dataclass(frozen=True)
class TextDataConfig:
    """Text corpus, tokenizer and packing."""

    path: str | None = None
    """Folder, file, prepared folder or hub name; None is the shipped sample (`--data` sets it)."""
    text_column: str = "text"
    tokenizer: str | None = None
    """A sentencepiece .model file; None trains one with frontend.vocab_size symbols."""
    tokenizer_type: Literal["unigram", "bpe"] = "bpe"
    lowercase: bool = False
    tokenizer_sample_megabytes: int = 200
    """Text that the tokenizer is trained on, at most."""
    sequence_length: int = 512
    """Tokens per sample, `<s>` included."""
    break_mode: Literal["none", "complete_doc"] = "complete_doc"
    """none: the token stream cut every sequence_length - 1. complete_doc: whole lines of one document (published)."""
    heldout_fraction: float = 0.01
    """Share of the text kept for eval_loss."""
    group_size: ClassVar[int] = 1
    num_workers: ClassVar[int] = 0
    max_bad_fraction: ClassVar[float] = 0.0


@dataclass(frozen=True)
class SpeechDataConfig:
    """Recordings, their lengths, and the groups that share a crop length."""

    path: str | None = None
    """Folder, manifest (.tsv, .csv, .jsonl), parquet, `datasets` folder, prepared folder or hub name; None is the shipped sample."""
    column: str = "audio"
    """Column of a table that holds the audio bytes, or of a manifest that holds the file's path."""
    sample_rate: int = 16_000
    """Everything else is resampled to this rate (Hz)."""
    min_seconds: float = 2.0
    """Shorter recordings are left out (published)."""
    max_seconds: float = 20.0
    """Longer ones are cropped (published)."""
    group_size: int = 8
    """Samples that share one crop length, that of the shortest, and one masked count, the smallest. A fixed part of the
    global batch, so that neither depends on ranks; a micro-batch lies within one group."""
    heldout_fraction: float = 0.01
    """Share of the recordings kept for eval_loss."""
    max_bad_fraction: float = 0.01
    """Share of undecodable recordings above which the run ends."""
    num_workers: int = 2
    """Processes per rank that decode; 0 decodes in the training process."""


@dataclass(frozen=True)
class VisionDataConfig:
    """Images and how each epoch sees them (data2vec's vision release, beit/datasets.py)."""

    path: str | None = None
    """Folder of images, parquet, `datasets` folder, prepared folder or hub name; None is the shipped sample."""
    column: str = "image"
    """Column of a table that holds the image bytes."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that the random crop takes."""
    color_jitter: float = 0.4
    """Brightness, contrast and saturation change by up to this share."""
    flip_prob: float = 0.5
    heldout_fraction: float = 0.01
    """Share of the images kept for eval_loss."""
    max_bad_fraction: float = 0.01
    """Share of undecodable images above which the run ends."""
    num_workers: int = 2
    """Processes per rank that decode; 0 decodes in the training process."""
    group_size: ClassVar[int] = 1


DataConfig = TextDataConfig | SpeechDataConfig | VisionDataConfig
FrontendConfig = TextFrontendConfig | SpeechFrontendConfig | VisionFrontendConfig
MaskConfig = TokenMaskConfig | SpanMaskConfig | BlockMaskConfig


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer's numbers; which implementation runs is the ds_config's `optimizer.type`."""

    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01
    """Decoupled (fairseq's adam)."""
    decay_norms_and_biases: bool = True
    """True as fairseq for text and speech; False leaves out biases and every 1-D parameter."""
    clip_norm: float = 5.0
    """Global gradient norm; 0 is no clipping."""
    schedule: Literal["cosine", "tri_stage"] = "cosine"
    schedule_steps: int = 1_000_000
    """The schedule's horizon in updates; stopping earlier or later does not bend it."""
    warmup_steps: int = 10_000
    decay_steps: int = 0
    """tri_stage only: length of the last stage."""
    final_lr_scale: float = 0.0
    """Last rate as a fraction of lr (tri_stage also starts there)."""


@dataclass(frozen=True)
class RunConfig:
    """One run: how long, how large a batch, what is written when."""

    seed: int = 1
    max_steps: int = 1_000_000
    global_batch_size: int = 256
    """Samples of one optimizer update, over all ranks and micro-batches."""
    log_steps: int = 100
    save_steps: int = 5_000
    eval_steps: int = 5_000
    eval_samples: int = 1_024
    """Held-out samples per evaluation, at most."""
    deterministic: bool = False
    """Ask torch for deterministic kernels (CUDA; CPU runs repeat bit for bit anyway)."""
    wandb: Literal["off", "offline", "online"] = "off"
    max_minutes: float = 0.0
    """Save and leave with exit code 75 at the first update after so long; 0 is no limit."""
    hang_seconds: float = 540.0
    """No update and no other sign of progress for so long is a hang: stacks are written, the rank behind is named, the run ends;
    0 never. Less than the 600 s after which NCCL ends a rank, naming nobody."""
    accept_changes: tuple[str, ...] = ()
    """Settings in which a resumed run may differ from the run so far: optim.lr,data.path"""


@dataclass(frozen=True)
class GuardConfig:
    """What ends a run, and what keeps an update from being applied. The collapse monitor has fairseq's thresholds
    (data2vec_audio.py: `min_target_var`, `min_pred_var`, which are stds)."""

    min_target_std: float = 0.1
    min_pred_std: float = 0.01
    after_steps: int = 5_000
    max_skipped_in_a_row: int = 50
    """Skipped updates before the run ends (not published; fp16's loss scale may need a dozen to settle)."""
    spike: Literal["off", "report", "skip"] = "report"
    """What becomes of an update whose loss or gradient norm is a spike: nothing, an event, or an event and it is not applied."""
    spike_deviations: float = 10.0
    """Robust standard deviations (1.4826 x median absolute deviation) above the median that make a spike (not published; gradient
    norms are heavy-tailed, so the 3 to 6 of normally distributed values would cry wolf)."""
    spike_window: int = 128
    """Applied updates that median and deviation are taken over; before as many there are no spikes."""


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoints stay on the disk; free to change from one launch to the next."""

    keep_last: int = 3
    """The newest ones; 2 at least, so that a damaged newest one has one before it."""
    keep_every_steps: int = 0
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


def apply_overrides(recipe: Recipe, assignments: list[str]) -> Recipe:
    """The recipe with `section.key=value` strings applied in order; a section may hold another one (model.block.drop_path).

    Raises: ConfigError for a missing `=`, an unknown section or key, or a value of another type.
    """
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: no '=' in it; write --set optim.lr=3e-4")
        if name.strip() not in _settable(recipe):
            raise ConfigError(_unknown(recipe, name.strip()))
        recipe = _replaced(recipe, name.strip().split("."), name.strip(), text.strip())
    return recipe


def _replaced(section: Any, keys: list[str], name: str, text: str) -> Any:
    key, *rest = keys
    value = _replaced(getattr(section, key), rest, name, text) if rest else _parse(name, text, get_type_hints(type(section))[key])
    changed: dict[str, Any] = {key: value}
    return replace(section, **changed)


def _settable(section: Any, prefix: str = "") -> list[str]:
    """Dotted names of everything that --set may change: what stands in a section."""
    names = []
    for item in fields(section):
        value = getattr(section, item.name)
        if is_dataclass(value):
            names += _settable(value, f"{prefix}{item.name}.")
        elif prefix:
            names.append(prefix + item.name)
    return names


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Nested plain values, ready for json.dump."""
    return asdict(recipe)


def recipe_from_dict(template: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe that recipe_to_dict wrote; `template` gives the classes of the sections.

    Raises: ConfigError where a section or key is not known to this version.
    """
    return _section_from_dict(template, values, "")


def _section_from_dict(template: Any, values: dict[str, Any], prefix: str) -> Any:
    known, contents = {f.name for f in fields(template)}, {}
    for key, value in values.items():
        if key not in known:
            kind = "the key" if prefix else "a section"
            raise ConfigError(f"config.json has {kind} {prefix}{key}, which this version does not know; use the version that wrote it")
        section = getattr(template, key)
        if is_dataclass(section):
            value = _section_from_dict(section, value, f"{prefix}{key}.")
        contents[key] = tuple(value) if isinstance(value, list) else value
    return replace(template, **contents)


def _unknown(recipe: Recipe, name: str) -> str:
    near = difflib.get_close_matches(name, _settable(recipe), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "--dry-run prints every key"
    return f"--set {name}: recipe {recipe.name} has no such key; {hint}"


def _parse(name: str, text: str, hint: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if text.lower() in ("none", "null") and type(None) in get_args(hint):
            return None
        return _parse(name, text, next(a for a in get_args(hint) if a is not type(None)))
    if origin is Literal:
        if text not in get_args(hint):
            raise ConfigError(f"--set {name}={text}: must be one of {', '.join(map(str, get_args(hint)))}")
        return text
    if origin is tuple:
        items = [item for item in text.strip("()[]").split(",") if item.strip()]
        kinds = get_args(hint)
        if kinds[-1] is not Ellipsis and len(items) != len(kinds):
            raise ConfigError(f"--set {name}={text}: has {len(items)} values, needs {len(kinds)} separated by commas")
        return tuple(_parse(name, item.strip(), kinds[0]) for item in items)
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"--set {name}={text}: must be true or false")
        return text.lower() == "true"
    try:
        value = hint(text)
    except ValueError:
        raise ConfigError(f"--set {name}={text}: must be {'an integer' if hint is int else 'a number'}") from None
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"--set {name}={text}: must be a finite number")
    return value
