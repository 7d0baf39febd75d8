"""Read the configuration of another code base: check that this model can express it, and convert the settings that have the same names
in all of fairseq's data2vec models. No tensors."""

from collections.abc import Iterable
from typing import Any

from model.config import Norm, TeacherConfig
from recipes.errors import ConfigError


def require(config: dict[str, Any], allowed: dict[str, tuple[Any, ...]]) -> None:
    """Check settings (a dotted name is a setting in a section) against the values that this model can express. A missing setting counts
    as the first allowed value, which is therefore the other code base's default.

    Raises: ConfigError with the first setting that this model cannot express.
    """
    for name, values in allowed.items():
        value: Any = config
        for part in name.split("."):
            value = value.get(part, values[0]) if isinstance(value, dict) else values[0]
        if value not in values:
            raise ConfigError(f"{name} is {value!r}, which this model cannot express; it takes {' or '.join(map(repr, values))}")


def require_known(config: dict[str, Any], known: Iterable[str]) -> None:
    """Check that every setting is among `known`. Raises: ConfigError with the first other one, since its effect was never checked."""
    for name in config.keys() - set(known):
        raise ConfigError(f"{name} is {config[name]!r}: a setting that this version does not know; remove it if it changes no number")


def teacher_settings(config: dict[str, Any]) -> TeacherConfig:
    """Return EMA, K and norms, which have the same names in all of fairseq's data2vec models. The caller sets `shares` and `target`."""
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
