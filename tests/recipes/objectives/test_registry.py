"""The objective of each kind, and what it is built with. An objective outside of this repository is found by its module."""

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from recipes import objective_kinds
from recipes.errors import ConfigError
from recipes.objective_config import ObjectiveConfig
from recipes.objectives.data2vec import Data2Vec
from recipes.objectives.registry import OBJECTIVES, objective_class
from tests.distributed import run_distributed
from tests.recipes.engine.test_build import resolved

KNOWN = "data2vec, mlm, pixels, classify, regress, ctc"
OUTSIDE = "tests.recipes.objectives.test_registry:Outside"


class OutsideConfig(ObjectiveConfig):
    """The section of Outside."""

    kind: ClassVar[str] = OUTSIDE


class Outside:
    """An objective that only records what it was built with."""

    Config = OutsideConfig

    def __init__(self, recipe: Any, builder: Any) -> None:
        stream = builder.stream
        self.seen = (recipe.run.seed, (stream.seed, stream.dp_rank, stream.tp_rank), builder.optimizer, builder.optim == recipe.optim)


def test_the_table_has_the_sections_that_recipes_may_have() -> None:
    assert {kind: one.Config for kind, one in OBJECTIVES.items()} == objective_kinds.OBJECTIVES
    assert objective_class("data2vec") is Data2Vec


def test_an_objective_outside_of_this_repository_is_imported() -> None:
    assert objective_class("recipes.objectives.data2vec:Data2Vec") is Data2Vec
    assert objective_class(OUTSIDE).Config.kind == OUTSIDE


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (
            "jepa",
            f"objective.kind 'jepa' is unknown; it is one of {KNOWN}, or module:Name of one that Python can import",
        ),
        (
            ":Name",
            f"objective.kind ':Name' is unknown; it is one of {KNOWN}, or module:Name of one that Python can import",
        ),
        ("nowhere:X", "objective.kind 'nowhere:X' cannot be imported (No module named 'nowhere'); put its folder on PYTHONPATH"),
        (
            "recipes.config:X",
            "objective.kind 'recipes.config:X' cannot be imported (module 'recipes.config' has no attribute 'X'); "
            "put its folder on PYTHONPATH",
        ),
    ],
)
def test_an_unknown_kind_is_one_line(kind: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        objective_class(kind)
    assert str(caught.value) == complaint


def build_outside(tp_size: int) -> Any:
    """Return what an objective outside of this repository was built with."""
    from model.parallel import init_parallel
    from recipes.objectives.registry import build_objective

    recipe, engines = resolved(2, tp_size, {}, {}, "run.seed=7")
    built: Any = build_objective(replace(recipe, objective=OutsideConfig()), engines, init_parallel(tp_size, "cpu"))
    return built.seen


@pytest.mark.parametrize(("tp_size", "places"), [(1, [(0, 0), (1, 0)]), (2, [(0, 0), (0, 1)])])
def test_an_objective_is_built_with_recipe_optimizer_and_a_stream_for_its_rank(tp_size: int, places: list[tuple[int, int]]) -> None:
    expected = [(7, (7, *place), None, True) for place in places]
    assert run_distributed(build_outside, 2, tp_size) == expected
