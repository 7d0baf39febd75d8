"""The interface between an objective and the loop: data2vec has every method of the protocols, with the same names and parameters."""

import inspect
from typing import Any

import pytest

from recipes.objectives.base import Column, Objective, Outcome, Statistics
from recipes.objectives.data2vec import Data2Vec
from recipes.objectives.registry import OBJECTIVES
from recipes.objectives.statistics import RegressionOutcome, UpdateStatistics


def methods(kind: type) -> dict[str, list[str]]:
    """Return the public methods that a class or one of its bases defines -> their parameters."""
    inherited = {name: value for base in reversed(kind.__mro__) for name, value in vars(base).items()}
    own = {name: value for name, value in inherited.items() if inspect.isfunction(value) and not name.startswith("_")}
    return {name: list(inspect.signature(value).parameters) for name, value in own.items()}


@pytest.mark.parametrize("kind", OBJECTIVES.values(), ids=OBJECTIVES)
def test_an_objective_has_every_method_of_the_protocol_with_its_parameters(kind: type) -> None:
    asked = methods(Objective)
    assert {name: found for name, found in methods(kind).items() if name in asked} == asked
    assert list(inspect.signature(kind).parameters) == ["recipe", "builder"]
    assert len(asked) == 12, "the loop, checkpoints and reports call no more than this"


def test_statistics_take_what_the_protocol_says() -> None:
    asked, found = methods(Statistics), methods(UpdateStatistics)
    assert found.keys() == asked.keys() and found["reduce"] == asked["reduce"]
    assert len(found["add"]) == len(asked["add"]) and issubclass(RegressionOutcome, Outcome)


@pytest.mark.parametrize("kind", OBJECTIVES.values(), ids=OBJECTIVES)
def test_what_is_shown_fits_the_picture_and_formats_a_number(kind: Any) -> None:
    display = kind.display
    assert 1 <= len(display.panels) <= 4 and all(display.panels.values())
    columns: tuple[Column, ...] = (*display.every_step, *display.at_evaluations)
    drawn = {key for keys in display.panels.values() for key in keys}
    assert columns and all(f"{0.5:{column.format}}" for column in columns) and {column.key for column in columns} <= drawn


def test_data2vec_keeps_nothing_beside_tensors() -> None:
    assert Data2Vec.state(Data2Vec.__new__(Data2Vec)) == {}
