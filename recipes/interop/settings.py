"""What the configurations of another code base have in common: check that this model can express one, and convert the settings that have
the same names in all of fairseq's, or all of transformers', data2vec models. No tensors."""

from collections.abc import Iterable
from typing import Any

from model.config import EncoderConfig, Norm, TeacherConfig
from recipes.errors import ConfigError


def require(config: dict[str, Any], allowed: dict[str, tuple[Any, ...]]) -> None:
    """Check that this model can express another project's settings. `allowed`: name -> values that it can express; a dotted name is a
    setting in a section. A missing setting counts as the first value, which is therefore the other project's default.

    Raises: ConfigError with the first setting that this model cannot express.
    """
    for name, values in allowed.items():
        value: Any = config
        for part in name.split("."):
            value = value.get(part, values[0]) if isinstance(value, dict) else values[0]
        if value not in values:
            raise ConfigError(f"{name} is {value!r}, which this model cannot express; it takes {' or '.join(map(repr, values))}")


def require_known(config: dict[str, Any], known: Iterable[str]) -> None:
    """Check that `config` has no setting beside those in `known`. Raises: ConfigError that names one, since its effect was never
    checked."""
    for name in config.keys() - set(known):
        raise ConfigError(f"{name} is {config[name]!r}: a setting that this version does not know; remove it if it changes no number")


def encoder_fields(model: EncoderConfig) -> dict[str, Any]:
    """Return the fields that all of transformers' data2vec configurations have under the same names. An init_std of None has no field:
    then transformers' default stands there."""
    return {
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "hidden_act": model.activation,
        "layer_norm_eps": model.block.layernorm_epsilon,
        "initializer_range": 0.02 if model.init_std is None else model.init_std,
    }


def teacher_settings(config: dict[str, Any]) -> TeacherConfig:
    """Return the teacher's settings of a fairseq data2vec configuration: EMA decays, number of averaged layers, norms. The caller sets
    `shares` and `target`."""
    per_layer: list[Norm] = [norm for norm in ("batch", "instance", "layer") if config.get(f"{norm}_norm_target_layer")]
    average: list[Norm] = [norm for norm in ("layer", "instance") if config.get(f"{norm}_norm_targets")]
    return TeacherConfig(
        ema_decay=config["ema_decay"],
        ema_end_decay=config["ema_end_decay"],
        ema_anneal_end_step=config["ema_anneal_end_step"],
        average_top_k_layers=config["average_top_k_layers"],
        layer_norms=tuple(per_layer),
        average_norms=tuple(average),
    )
