"""Which settings of a model another format can store: those that it has a field for, those that change training only, and those that must
have certain values. No format and no tensors here."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.values import text_of_value

SECTIONS = ("model.", "frontend.")
"""Beginnings of the dotted names of all settings that decide which network a recipe has."""
ELSE = "use launch/convert.py consolidate, which writes every model"


@dataclass(frozen=True)
class Rule:
    """A setting that the other format expresses for some values only."""

    allows: Callable[[Any], bool]
    why: str
    """What the other format has, such as `transformers has absolute positions only`."""
    remedy: str
    """What the user can do, beside writing the weights in this project's own format."""


def only(setting: str, value: Any, why: str) -> Rule:
    """Return the rule that the setting with this dotted name must have this value."""
    return Rule(lambda found: found == value, why, f"train with --set {setting}={text_of_value(value)}")


@dataclass(frozen=True)
class Expressible:
    """What happens to each setting of the sections model and frontend when a model is written in another format."""

    stored: frozenset[str]
    """Dotted names of settings that have a field there. A model that is read back has the same values."""
    dropped: frozenset[str]
    """Settings that change training, initial values, the regression head, or the frames next to padding only."""
    rules: Mapping[str, Rule]
    """Settings that must have certain values."""

    def check(self, recipe: Recipe) -> None:
        """Check that the other format can express the recipe's model. Raises: ConfigError with the first setting that it cannot."""
        for name, rule in self.rules.items():
            value: Any = recipe
            for part in name.split("."):
                value = getattr(value, part)
            if not rule.allows(value):
                raise ConfigError(f"{name} {value}: {rule.why}; {rule.remedy}, or {ELSE}")


def expressible(stored: Iterable[str], dropped: Iterable[str], rules: Mapping[str, Rule]) -> Expressible:
    """Return the table with these settings and those that all of transformers' data2vec classes have in common."""
    return Expressible(frozenset({*STORED, *stored}), frozenset({*DROPPED, *dropped}), rules)


STORED = (
    *("model.num_layers", "model.hidden_size", "model.ffn_hidden_size", "model.num_attention_heads"),
    *("model.hidden_dropout", "model.attention_dropout", "model.activation"),
)
DROPPED = (
    "model.init_std",  # initializer_range stores it, except None
    *("model.head_layers", "model.head_init", "model.block.truncated_init", "model.block.depth_scaled_init"),
)
POST_LN: dict[str, Rule] = {
    "model.block.normalize_before": only(
        "model.block.normalize_before", False, "this class of transformers has LayerNorm after each residual addition only"
    ),
    "model.block.key_bias": only("model.block.key_bias", True, "this class of transformers always has a bias on the keys"),
    "model.block.layer_scale": only("model.block.layer_scale", None, "this class of transformers has no layer scale"),
}
"""Rules of the classes for text and speech."""
