"""What a modality must bring: every modality of the house has all of it, under the same names."""

import inspect

from recipes.modalities.base import Modality
from recipes.modalities.registry import MODALITIES

MEMBERS = {name: value for name, value in vars(Modality).items() if not name.startswith("_")}
METHODS = {name: value for name, value in MEMBERS.items() if inspect.isfunction(value)}


def parameters(function: object) -> list[tuple[str, object]]:
    """Names and kinds; those of a method without `self`."""
    return [(one.name, one.kind) for one in inspect.signature(function).parameters.values() if one.name != "self"]  # type: ignore[arg-type]


def test_there_is_something_to_bring() -> None:
    assert {"kinds", "recipes", "probes"} <= set(MEMBERS) and {"check", "open_labelled", "random_batch"} <= set(METHODS)


def test_every_modality_has_all_of_it_and_its_methods_take_what_the_common_code_gives(modality: str) -> None:
    one = MODALITIES[modality]
    assert [name for name in MEMBERS if not hasattr(one, name)] == []
    taken = {name: parameters(getattr(one, name)) for name in METHODS}
    assert taken == {name: parameters(method) for name, method in METHODS.items()}


def test_what_a_modality_says_without_being_asked_is_of_its_type(modality: str) -> None:
    one = MODALITIES[modality]
    assert all(callable(build) for build in one.recipes.values())
    assert all(isinstance(kind, type) for classes in one.kinds.values() for kind in classes)
    assert isinstance(one.benchmark_length, int) and all(isinstance(task, str) for task in one.probes)
