"""How a task's head is stored in a Hugging Face directory: the class of transformers, its names, its settings, and the files of its
pipeline. The heads themselves are in hf_heads.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from recipes.interop.expressible import ELSE, Expressible, Rule, only
from recipes.interop.names import NameTable, renamed
from recipes.interop.processors import Processor
from recipes.interop.shapes import Shapes

SECTION = "objective.head."
"""Beginning of the dotted names of all settings that decide which head a recipe has."""


@dataclass(frozen=True)
class HfHead:
    """One class of transformers that is data2vec with the head of a task."""

    architecture: str
    """Name of the class."""
    modules: Mapping[str, str]
    """Modules of its head -> modules of this project's head."""
    expressible: Expressible
    """Which settings of the head its configuration stores, drops or refuses."""
    fields: Callable[[Any], dict[str, Any]]
    """Recipe -> fields of config.json about the task. Raises: ConfigError for a setting that the class cannot express."""
    shapes: Callable[[dict[str, Any]], Shapes]
    """config.json -> name and shape of the head's tensors."""
    processor: Callable[[Any, Processor], Processor]
    """(recipe, what stands beside an export without head) -> what stands beside this one."""
    lacks: tuple[str, ...] = ()
    """Beginnings of names of tensors that the class without head has and this one has not."""

    def config(self, recipe: Any) -> dict[str, Any]:
        """Return the fields of config.json that the task decides. Raises: ConfigError with the first setting that cannot be expressed."""
        self.expressible.check(recipe)
        return self.fields(recipe)

    def names(self, trunk: NameTable, prefix: str) -> NameTable:
        """Return the table that converts the tensors of trunk and head. `trunk`: that of the class without head. `prefix`: stands before
        those names here."""
        return trunk.inside(prefix, renamed("", "head.", dict(self.modules)))

    def all_shapes(self, trunk: Shapes, prefix: str, config: dict[str, Any]) -> Shapes:
        """Return name -> shape of all tensors of the class. `trunk`: those of the class without head, without `prefix`."""
        kept = {prefix + name: shape for name, shape in trunk.items() if not name.startswith(self.lacks)}
        return kept | self.shapes(config)


def head_rules(architecture: str, **values: Any) -> dict[str, Rule]:
    """Return the rules that settings of the head must have these values, since `architecture` has no other head."""
    why = f"{architecture} of transformers has no such head"
    return {SECTION + name: only(SECTION + name, value, why) for name, value in values.items()}


def refusal(name: str, value: Any, why: str, remedy: str) -> str:
    """Return the line that refuses a setting of the head."""
    return f"{SECTION}{name} {value}: {why}; {remedy}, or {ELSE}"


def label_fields(labels: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields that name the outputs of a head."""
    return {"id2label": {str(number): label for number, label in enumerate(labels)}, "label2id": {b: a for a, b in enumerate(labels)}}


def class_fields(recipe: Any) -> dict[str, Any]:
    """Return the fields of a classification."""
    return {**label_fields(recipe.objective.labels), "problem_type": "single_label_classification"}


def piped(found: Processor, task: str, call: str, *notes: str) -> Processor:
    """Return what stands beside a model that pipeline() loads for this task. `call`: the expression that uses it, with the name `pipe`."""
    usage = ("from transformers import pipeline", f'pipe = pipeline("{task}", model="{{folder}}")', f"print({call})")
    return replace(found, usage=usage, task=task, notes=(*found.notes, *notes))
