"""Reading another code base's configuration: what it must say for ours to mean the same, and settings that all of fairseq's
data2vec models spell alike. No tensors."""

from collections.abc import Iterable
from typing import Any

from model.config import Norm, TeacherConfig
from recipes.errors import ConfigError


def require(config: dict[str, Any], allowed: dict[str, tuple[Any, ...]]) -> None:
    """Check settings (dotted names lead into sections) against the values that ours can express. One that is missing is at the
    first of them, which is why they start with the other side's default.

    Raises: ConfigError naming the first setting that ours cannot express.
    """
    for name, values in allowed.items():
        value: Any = config
        for part in name.split("."):
            value = value.get(part, values[0]) if isinstance(value, dict) else values[0]
        if value not in values:
            raise ConfigError(f"{name} is {value!r}, which this model cannot express; it takes {' or '.join(map(repr, values))}")


def require_known(config: dict[str, Any], known: Iterable[str]) -> None:
    """Raises: ConfigError naming the first setting that is not known here: what it changes, nobody has looked at."""
    for name in config.keys() - set(known):
        raise ConfigError(f"{name} is {config[name]!r}: a setting that this version does not know; remove it if it changes no number")


def teacher_settings(config: dict[str, Any]) -> TeacherConfig:
    """EMA, K and norms, which fairseq's data2vec models spell alike; what the teacher shares and reads is the caller's."""
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
