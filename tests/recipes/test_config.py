"""Sections of objectives, and ranges of all settings."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from model.bounds import Bounds, Place
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.masked_config import Data2VecConfig
from recipes.modalities.registry import MODALITIES
from recipes.objective_config import ObjectiveConfig
from recipes.objective_kinds import OBJECTIVES
from recipes.text import text_base, text_tiny


def test_data2vec_is_the_default_objective() -> None:
    assert text_base().objective == Data2VecConfig()


def test_data2vec_has_one_teacher_and_a_head() -> None:
    model, plain = text_base().model, ObjectiveConfig()
    ours = Data2VecConfig()
    frontend = text_base().frontend
    assert (ours.num_teachers, ours.head_widths(model, frontend)) == (1, [768, 2 * 768, 768])
    assert (plain.num_teachers, plain.head_parameters(model, frontend)) == (0, [])
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


def described(section: type) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Yield name, type and notes of every field of a section, and of the sections in it."""
    for name, hint in get_type_hints(section, include_extras=True).items():
        if name not in {item.name for item in fields(section)}:
            continue
        notes = hint.__metadata__ if get_origin(hint) is Annotated else ()
        plain = hint.__origin__ if notes else hint
        if is_dataclass(plain) and isinstance(plain, type):
            yield from described(plain)
        else:
            yield f"{section.__name__}.{name}", plain, notes


def has_numbers(hint: Any) -> bool:
    return hint in (int, float) or any(has_numbers(inner) for inner in get_args(hint))


SECTIONS = [section for section in get_type_hints(Recipe).values() if is_dataclass(section)]
SECTIONS += [kind for modality in MODALITIES.values() for kinds in modality.kinds.values() for kind in kinds]
SECTIONS += list(OBJECTIVES.values())


@pytest.mark.parametrize("section", dict.fromkeys(SECTIONS), ids=lambda section: section.__name__)
def test_no_number_among_the_settings_is_without_a_range(section: type) -> None:
    found = list(described(section))
    assert [name for name, hint, notes in found if has_numbers(hint) != any(isinstance(note, Bounds) for note in notes)] == []


def test_settings_with_a_file_or_folder_are_marked_as_a_place() -> None:
    names = {name for section in dict.fromkeys(SECTIONS) for name, _, notes in described(section) if Place() in notes}
    paths = {f"{kind}DataConfig.path" for kind in ("Text", "Speech", "Vision")}
    paths |= {f"Labelled{name}" for name in paths}
    tokenizers = {"TextDataConfig.tokenizer", "LabelledTextDataConfig.tokenizer", "FinetuneConfig.tokenizer_from"}
    others = {
        "StartConfig.start_from",
        "EvalConfig.probe_data",
        "EvalConfig.probe_reference",
        "FinetuneConfig.language_model",
        "FinetuneConfig.imported_from",
    }
    assert names == paths | tokenizers | others
