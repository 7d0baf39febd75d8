"""Rules about settings that another format cannot store."""

from dataclasses import replace

import pytest

from recipes.errors import ConfigError
from recipes.interop.expressible import DROPPED, STORED, Rule, expressible, only
from recipes.text import text_base

TABLE = expressible(
    stored=("model.activation_dropout",),
    dropped=("model.block.drop_path",),
    rules={"model.activation": only("model.activation", "gelu", "it has one activation")},
)


def test_what_all_classes_have_in_common_is_in_every_table() -> None:
    assert TABLE.stored == {*STORED, "model.activation_dropout"} and TABLE.dropped == {*DROPPED, "model.block.drop_path"}


def test_a_value_that_a_rule_does_not_allow_is_refused_with_the_setting_and_a_remedy() -> None:
    TABLE.check(text_base())
    recipe = replace(text_base(), model=replace(text_base().model, activation="relu"))
    complaint = (
        r"^model\.activation relu: it has one activation; train with --set model\.activation=gelu, or use launch/convert\.py consolidate"
    )
    with pytest.raises(ConfigError, match=complaint):
        TABLE.check(recipe)


@pytest.mark.parametrize(("value", "text"), [(None, "none"), (True, "true"), (1e-5, "1e-05"), ("layer", "layer")])
def test_the_remedy_is_what_a_user_types(value: object, text: str) -> None:
    rule = only("a.b", value, "why")
    assert isinstance(rule, Rule) and rule.remedy == f"train with --set a.b={text}" and rule.allows(value) and not rule.allows("else")
