"""Reads the model of a fairseq data2vec checkpoint (version 1: text, audio, or its port of vision) for an imported run: recipe, student,
and teacher. Writes nothing. Its optimizer's state is not read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop import fairseq_speech, fairseq_text, fairseq_vision
from recipes.interop.fairseq_file import plain, read_fairseq_file, resolved
from recipes.interop.foreign_weights import ForeignWeights, as_float32
from recipes.interop.imported_model import ImportedModel
from recipes.interop.imported_recipe import described_by, fitted, template_of
from recipes.interop.imported_tokenizer import ImportedTokenizer, no_tokenizer, text_tokenizer
from recipes.interop.names import NameTable

TEACHER = "_ema"
"""Last part of the key, in fairseq's state dict, of the teacher's tensors."""
OLD_NAMES = {
    "decoder.": "encoder.",
    ".emb_layer_norm.": ".layernorm_embedding.",
    ".lm_head.": ".regression_head.",
    "final_proj.0.": "final_proj.",
}
"""Parts of names in older checkpoints -> those that fairseq gives to the same tensors when it loads them. A part without a dot in front
stands at the beginning.
Source: upgrade_state_dict_named of fairseq data2vec_text.py; the last one: conversion script of transformers for data2vec audio."""
TEACHER_DEFAULTS: dict[str, Any] = {
    "loss_beta": 0,
    "loss_scale": None,
    "average_top_k_layers": 8,
    "ema_decay": 0.999,
    "ema_end_decay": 0.9999,
}
"""fairseq gives a setting that a checkpoint's configuration lacks its default. Source: fairseq data2vec_{text,audio,vision}.py."""


@dataclass(frozen=True)
class FairseqFormat:
    """How a data2vec model of one modality is stored by fairseq."""

    modality: str
    recipe: Callable[[Recipe, dict[str, Any], Mapping[str, Tensor]], Recipe]
    """(template, configuration, student's tensors) -> recipe. Raises: ConfigError."""
    names: Callable[[Recipe], NameTable]
    teacher_prefix: Callable[[Recipe], str]
    defaults: dict[str, Any]
    known: tuple[str, ...] | None
    """The settings whose effect was checked. None: those that are not read change nothing."""
    tokenizer: Callable[[Path | None, Recipe, Path | None], ImportedTokenizer]
    """(None, recipe, --tokenizer) -> the tokenizer that an imported run keeps. Raises: ConfigError."""


def _text_recipe(template: Recipe, config: dict[str, Any], state: Mapping[str, Tensor]) -> Recipe:
    if fairseq_text.TOKENS not in state:
        raise ConfigError(f"the weights have no tensor {fairseq_text.TOKENS}; check that configuration and weights belong together")
    return fairseq_text.text_recipe(template, config, len(state[fairseq_text.TOKENS]))


FORMATS: dict[str, FairseqFormat] = {
    "data2vec_text": FairseqFormat(
        "text",
        _text_recipe,
        fairseq_text.text_names,
        lambda recipe: fairseq_text.TEACHER_PREFIX,
        {**TEACHER_DEFAULTS, "head_layers": 1, "ema_transformer_layers_only": True},
        None,
        text_tokenizer,
    ),
    "data2vec_audio": FairseqFormat(
        "speech",
        lambda template, config, state: fairseq_speech.speech_recipe(template, config),
        fairseq_speech.speech_names,
        fairseq_speech.teacher_prefix,
        {**TEACHER_DEFAULTS, "ema_transformer_only": True, "ema_layers_only": True, "min_target_var": 0.1, "min_pred_var": 0.01},
        (*fairseq_speech.CAN_EXPRESS, *fairseq_speech.TRANSLATED, *fairseq_speech.IGNORED),
        no_tokenizer,
    ),
    "data2vec_vision": FairseqFormat(
        "vision",
        lambda template, config, state: fairseq_vision.vision_recipe(template, config),
        fairseq_vision.vision_names,
        fairseq_vision.teacher_prefix,
        {**TEACHER_DEFAULTS, "ema_transformer_only": True, "end_of_block_targets": False},
        (*fairseq_vision.TRANSLATED, *fairseq_vision.IGNORED),
        no_tokenizer,
    ),
}
"""By the name of the model in fairseq's configuration."""


def read_fairseq_model(path: Path, recipe_name: str | None, tokenizer: Path | None) -> ImportedModel:
    """Return the model of the checkpoint at `path`. `recipe_name`: the recipe for all that it does not say, None: the modality's Base.
    `tokenizer`: file or folder of a text model's tokenizer. Raises: ConfigError."""
    source = f"--from {path}"
    content = read_fairseq_file(path, source)
    name, config, is_flat = _configuration(content, source)
    form = FORMATS[name]
    student, teacher = _networks(content["model"], source)
    template = template_of(form.modality, recipe_name)
    config = _only_known(form.defaults | config, form.known, is_flat)
    recipe = described_by(config, source, lambda: form.recipe(template, config, student))
    kept = form.tokenizer(None, recipe, tokenizer)
    recipe = fitted(recipe, template, kept, source)
    table = form.names(recipe)
    own = _weights(teacher, table, f"{source}: its teacher", form.teacher_prefix(recipe)) if teacher else None
    return ImportedModel(
        recipe,
        template,
        _weights(student, table, source, ""),
        teacher=own,
        may_lack=(),
        origin={"from": str(path), "format": "fairseq", "model_type": name},
        tokenizer=kept,
        notes=() if teacher else ("the checkpoint has no teacher (_ema)",),
    )


def _configuration(content: dict[str, Any], source: str) -> tuple[str, dict[str, Any], bool]:
    """Return name and settings of the model, and True if they are among all arguments of the command (`args` of older checkpoints) instead
    of in a section of their own (`cfg`).

    Raises: ConfigError if there is no data2vec model of version 1.
    """
    config = plain(content.get("cfg"))
    is_flat = not (isinstance(config, dict) and config.get("model"))
    if isinstance(config, dict) and not is_flat:
        found = resolved(config.get("model"), config)
    else:
        found = _nested(plain(content.get("args")))
    if not isinstance(found, dict):
        raise ConfigError(f"{source}: has no configuration of a model, neither in `cfg` nor in `args`; name a checkpoint of fairseq")
    name = found.get("_name") or found.get("arch")
    if not isinstance(name, str) or name not in FORMATS:
        raise ConfigError(f"{source}: is a fairseq checkpoint of the model {name!r}; name one of {', '.join(FORMATS)}")
    return name, {key: value for key, value in found.items() if key != "arch"}, is_flat


def _nested(args: Any) -> Any:
    """Return the flat arguments of a command with those of a transformer as a section: encoder_layers -> transformer.encoder.layers.
    Source: fairseq transformer_config.py, from_namespace."""
    if not isinstance(args, dict) or args.get("arch") != "data2vec_text":
        return args
    if "transformer" in args:
        return args
    encoder = {key.removeprefix("encoder_"): value for key, value in args.items() if key.startswith("encoder_")}
    defaults = {"dropout": 0.1, "attention_dropout": 0.0, "activation_dropout": 0.0, "activation_fn": "relu"}
    return args | {"transformer": defaults | args | {"encoder": {"normalize_before": False, "learned_pos": False} | encoder}}


def _only_known(config: dict[str, Any], known: tuple[str, ...] | None, is_flat: bool) -> dict[str, Any]:
    """Return the settings without those that are unknown here and switched off. The reader of the settings refuses the other unknown
    ones, as they may change numbers. `is_flat`: also leave these out, since arguments of the whole command are among them."""
    return {key: value for key, value in config.items() if known is None or key in known or (value and not is_flat)}


def _networks(state: dict[str, Any], source: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of student and teacher, under the names that fairseq gives them today; {} if there is no teacher."""
    student, teacher = dict[str, Tensor](), dict[str, Tensor]()
    for key, value in state.items():
        if isinstance(value, Tensor):
            student[_current_name(key)] = value
        elif key.rpartition(".")[2] == TEACHER and isinstance(value, dict):
            teacher = {_current_name(f".{name}")[1:]: tensor for name, tensor in value.items() if isinstance(tensor, Tensor)}
    if not student:
        raise ConfigError(f"{source}: its `model` has no tensors; name a checkpoint of a training")
    return student, teacher


def _current_name(name: str) -> str:
    for old, new in OLD_NAMES.items():
        if old.startswith("."):
            name = name.replace(old, new)
        elif name.startswith(old):
            name = new + name.removeprefix(old)
    return name


def _weights(tensors: dict[str, Tensor], table: NameTable, source: str, prefix: str) -> ForeignWeights:
    return ForeignWeights(table, tensors, lambda name: as_float32(tensors[name], name, source), source, prefix)
