"""What the loop may ask of any data section, the sections of objectives, and that what is learned is all there is."""

from dataclasses import fields, replace

import pytest

from recipes.config import OBJECTIVES, Data2VecConfig, DataConfig, ObjectiveConfig, SpeechDataConfig, TextDataConfig, VisionDataConfig
from recipes.errors import ConfigError
from recipes.text import text_base, text_tiny


def asked(data: DataConfig) -> tuple[str | None, int, int, float]:
    return data.path, data.group_size, data.num_workers, data.max_bad_fraction


def test_text_has_no_groups_no_workers_and_nothing_undecodable() -> None:
    assert asked(TextDataConfig()) == (None, 1, 0, 0.0)
    assert asked(TextDataConfig(path="/books")) == ("/books", 1, 0, 0.0)
    assert not {"group_size", "num_workers", "max_bad_fraction"} & {item.name for item in fields(TextDataConfig)}, "nor can they be set"


def test_other_modalities_set_what_the_loop_asks() -> None:
    assert asked(SpeechDataConfig(path="/clips", group_size=4, num_workers=3, max_bad_fraction=0.5)) == ("/clips", 4, 3, 0.5)
    assert asked(VisionDataConfig(path="/pictures", num_workers=3, max_bad_fraction=0.5)) == ("/pictures", 1, 3, 0.5)
    assert asked(SpeechDataConfig()) == (None, 8, 2, 0.01) and asked(VisionDataConfig()) == (None, 1, 2, 0.01)


def test_data2vec_is_what_a_recipe_learns_by_where_nothing_is_said() -> None:
    assert text_base().objective == Data2VecConfig() and {"data2vec": Data2VecConfig} == OBJECTIVES
    assert all(kind == section.kind for kind, section in OBJECTIVES.items())


def test_an_update_of_data2vec_costs_four_forwards_and_holds_one_teacher_and_a_head() -> None:
    model, plain = text_base().model, ObjectiveConfig()
    ours = Data2VecConfig()
    assert (ours.forwards_per_update, ours.num_teachers, ours.num_head_parameters(model)) == (4, 1, model.num_head_parameters)
    assert (plain.forwards_per_update, plain.num_teachers, plain.num_head_parameters(model)) == (3, 0, 0)
    plain.check(text_base())


@pytest.mark.parametrize(
    ("top", "layers", "is_right"), [(1, 1, True), (3, 3, True), (2, 3, True), (0, 3, False), (4, 3, False), (-1, 3, False)]
)
def test_no_more_layers_are_averaged_than_there_are(top: int, layers: int, is_right: bool) -> None:
    tiny = text_tiny()
    model, teacher = replace(tiny.model, num_layers=layers), replace(tiny.teacher, average_top_k_layers=top)
    recipe = replace(tiny, model=model, teacher=teacher)
    if is_right:
        Data2VecConfig().check(recipe)
        return
    with pytest.raises(ConfigError) as caught:
        Data2VecConfig().check(recipe)
    assert str(caught.value) == (
        f"teacher.average_top_k_layers {top} of model.num_layers {layers}; "
        f"use --set teacher.average_top_k_layers=N with N from 1 to {layers}"
    )
