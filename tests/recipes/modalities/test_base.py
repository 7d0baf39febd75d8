"""The interface of a modality: every modality has all members, with the same names and parameters."""

import inspect

from recipes.modalities.base import DataSource, Modality
from recipes.modalities.registry import MODALITIES

MEMBERS = {name: value for kind in (DataSource, Modality) for name, value in vars(kind).items() if not name.startswith("_")}
METHODS = {name: value for name, value in MEMBERS.items() if inspect.isfunction(value)}


def parameters(function: object) -> list[tuple[str, object]]:
    """Return names and kinds of the parameters, without `self`."""
    return [(one.name, one.kind) for one in inspect.signature(function).parameters.values() if one.name != "self"]  # type: ignore[arg-type]


def test_the_interface_has_members() -> None:
    assert {"kinds", "recipes", "probes"} <= set(MEMBERS) and {"check", "open_labelled", "random_batch"} <= set(METHODS)


def test_every_modality_has_all_members_and_its_methods_have_the_same_parameters(modality: str) -> None:
    one = MODALITIES[modality]
    assert [name for name in MEMBERS if not hasattr(one, name)] == []
    taken = {name: parameters(getattr(one, name)) for name in METHODS}
    assert taken == {name: parameters(method) for name, method in METHODS.items()}


def test_the_attributes_of_a_modality_have_the_declared_types(modality: str) -> None:
    one = MODALITIES[modality]
    assert all(callable(build) for build in one.recipes.values())
    assert all(isinstance(kind, type) for classes in one.kinds.values() for kind in classes)
    assert isinstance(one.benchmark_length, int) and all(isinstance(task, str) for task in one.probes)
