"""Settings of another code base: refused by name if this model cannot express them."""

from typing import Any

import pytest

from model.config import TeacherConfig
from recipes.errors import ConfigError
from recipes.interop.settings import require, require_known, teacher_settings

TEACHER: dict[str, Any] = {"ema_decay": 0.9, "ema_end_decay": 0.99, "ema_anneal_end_step": 10, "average_top_k_layers": 3}


@pytest.mark.parametrize("config", [{"a": {"b": 1}}, {"a": {"b": 2}}, {"a": {}}, {}, {"a": None}])
def test_allowed_and_missing_settings_pass(config: dict[str, Any]) -> None:
    require(config, {"a.b": (1, 2)})


def test_a_setting_that_this_model_cannot_express_is_refused_with_its_value_and_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"a\.b is 'conformer', which this model cannot express; it takes 1 or 2"):
        require({"a": {"b": "conformer"}}, {"a.b": (1, 2)})


def test_a_setting_that_is_not_known_is_refused_by_name() -> None:
    require_known({"a": 1}, ["a", "b"])
    with pytest.raises(ConfigError, match="c is 3"):
        require_known({"a": 1, "c": 3}, ["a", "b"])


def test_teacher_without_norms() -> None:
    expected = TeacherConfig(ema_decay=0.9, ema_end_decay=0.99, ema_anneal_end_step=10, average_top_k_layers=3, layer_norms=())
    assert teacher_settings(TEACHER) == expected


def test_flags_of_the_norms_become_their_names() -> None:
    per_layer = {f"{norm}_norm_target_layer": True for norm in ("batch", "instance", "layer")}
    average = {f"{norm}_norm_targets": True for norm in ("layer", "instance")}
    teacher = teacher_settings(TEACHER | per_layer | average)
    assert (teacher.layer_norms, teacher.average_norms) == (("batch", "instance", "layer"), ("layer", "instance"))
    for norm in ("batch", "instance", "layer"):
        assert teacher_settings(TEACHER | {f"{norm}_norm_target_layer": True}).layer_norms == (norm,)
