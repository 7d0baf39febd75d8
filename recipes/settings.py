"""A recipe's settings as text and JSON: `--set`, config.json, bounds, and what differs between two recipes. Torch-free; which settings
there are: recipes/config.py."""

import difflib
import importlib
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from model.bounds import Absent, Bounds
from recipes.config import OBJECTIVES, Data2VecConfig, ObjectiveConfig, Recipe
from recipes.errors import ConfigError

Kinds = Mapping[str, Sequence[type]]
"""Section -> the classes that may stand there, of which the first is what a section without a kind is."""

ALWAYS = frozenset({"model", "frontend", "mask", "teacher", "loss", "data", "optim", "run", "guard", "checkpoint"})
"""Sections that every config.json has had; a later one that is missing counts as its default."""


def apply_overrides(recipe: Recipe, assignments: list[str]) -> Recipe:
    """The recipe with `section.key=value` strings applied in order; a section may hold another one (model.block.drop_path).

    Raises: ConfigError for a missing `=`, an unknown section or key, or a value of another type.
    """
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: no '=' in it; write --set optim.lr=3e-4")
        if name.strip() not in _settable(recipe):
            raise ConfigError(_unknown(recipe, name.strip()))
        recipe = _replaced(recipe, name.strip().split("."), name.strip(), text.strip())
    return recipe


def _replaced(section: Any, keys: list[str], name: str, text: str) -> Any:
    key, *rest = keys
    value = _replaced(getattr(section, key), rest, name, text) if rest else _parse(name, text, get_type_hints(type(section))[key])
    changed: dict[str, Any] = {key: value}
    return replace(section, **changed)


def _settable(section: Any, prefix: str = "") -> list[str]:
    """Dotted names of everything that --set may change: what stands in a section."""
    names = []
    for item in fields(section):
        value = getattr(section, item.name)
        if is_dataclass(value):
            names += _settable(value, f"{prefix}{item.name}.")
        elif prefix:
            names.append(prefix + item.name)
    return names


def _unknown(recipe: Recipe, name: str) -> str:
    if name.endswith(".kind"):
        return f"--set {name}: the kind of a section is the recipe's; name another --recipe"
    near = difflib.get_close_matches(name, _settable(recipe), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "--dry-run prints every key"
    return f"--set {name}: recipe {recipe.name} has no such key; {hint}"


def _parse(name: str, text: str, hint: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if text.lower() in ("none", "null") and type(None) in get_args(hint):
            return None
        return _parse(name, text, next(a for a in get_args(hint) if a is not type(None)))
    if origin is Literal:
        if text not in get_args(hint):
            raise ConfigError(f"--set {name}={text}: must be one of {', '.join(map(str, get_args(hint)))}")
        return text
    if origin is tuple:
        items = [item for item in text.strip("()[]").split(",") if item.strip()]
        kinds = get_args(hint)
        if kinds[-1] is not Ellipsis and len(items) != len(kinds):
            raise ConfigError(f"--set {name}={text}: has {len(items)} values, needs {len(kinds)} separated by commas")
        return tuple(_parse(name, item.strip(), kinds[0]) for item in items)
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"--set {name}={text}: must be true or false")
        return text.lower() == "true"
    try:
        value = hint(text)
    except ValueError:
        raise ConfigError(f"--set {name}={text}: must be {'an integer' if hint is int else 'a number'}") from None
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"--set {name}={text}: must be a finite number")
    return value


def check_bounds(recipe: Recipe) -> None:
    """Raises: ConfigError for the first number outside of the bounds that stand beside its field."""
    for name, value, bounds in _bounded(recipe):
        complaint = None if value is None else bounds.complaint(value)
        if complaint:
            raise ConfigError(f"{name} is {value}; it {complaint}")


def bounded_names(recipe: Recipe) -> list[str]:
    """Dotted names of the settings that have bounds."""
    return [name for name, _, _ in _bounded(recipe)]


def _bounded(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Bounds]]:
    hints = get_type_hints(type(section), include_extras=True)
    for name in (item.name for item in fields(section)):
        hint, value = hints[name], getattr(section, name)
        if is_dataclass(value):
            yield from _bounded(value, f"{prefix}{name}.")
        elif get_origin(hint) is Annotated:
            yield from ((prefix + name, value, note) for note in hint.__metadata__ if isinstance(note, Bounds))


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Nested plain values, ready for json.dump; a section that may be of several classes names its `kind`."""
    return _to_dict(recipe)


def _to_dict(section: Any) -> dict[str, Any]:
    kind = getattr(section, "kind", None)
    found: dict[str, Any] = {} if kind is None else {"kind": kind}
    for item in fields(section):
        value = getattr(section, item.name)
        found[item.name] = _to_dict(value) if is_dataclass(value) else value
    return found


def recipe_from_dict(values: Mapping[str, Any], kinds: Kinds, writer: str = "config.json") -> Recipe:
    """The recipe that recipe_to_dict wrote, in this release or an older one. A missing key is the default of its class, or what its
    field says of runs that lack it. `kinds` are the modality's; `writer` begins the messages.

    Raises: ConfigError for a section or key that this release does not know, an unknown kind, a section missing that there has always
    been, a value of another type or out of bounds.
    """
    _check_sections(values, writer)
    contents: dict[str, Any] = {name: _typed(values[name], str, name, writer) for name in ("name", "modality")}
    for name, hint in get_type_hints(Recipe).items():
        if name in values and name not in contents:
            stored = _mapping(values[name], name, writer)
            contents[name] = _section(_class_of(name, stored, kinds.get(name, (hint,)), writer), stored, f"{name}.", writer)
    recipe = Recipe(**contents)
    try:
        check_bounds(recipe)
    except ConfigError as error:
        raise ConfigError(f"{writer}: {error}") from None
    return recipe


def _check_sections(values: Mapping[str, Any], writer: str) -> None:
    unknown = [name for name in values if name not in get_type_hints(Recipe)]
    if unknown:
        raise ConfigError(f"{writer}: has a section {unknown[0]}, which this release does not know; use the release that wrote it")
    missing = sorted((ALWAYS | {"name", "modality"}) - values.keys())
    if missing:
        what = f"section {missing[0]}" if missing[0] in ALWAYS else missing[0]
        raise ConfigError(f"{writer}: has no {what}, which every run has; restore the file from a copy")


def _mapping(value: Any, name: str, writer: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{writer}: {name.rstrip('.')} is {value!r}, must be a section of keys; restore the file from a copy")
    return value


def _class_of(name: str, stored: Mapping[str, Any], known: Sequence[type], writer: str) -> Any:
    if name == "objective":
        return objective_config(str(stored.get("kind", Data2VecConfig.kind)), writer)
    kind = stored.get("kind")
    found = next((one for one in known if kind is None or getattr(one, "kind", None) == kind), None)
    if found is None:
        there = ", ".join(getattr(one, "kind", "none") for one in known)
        raise ConfigError(
            f"{writer}: {name}.kind {kind!r} is unknown for its modality, which has {there}; restore the file or use the release that "
            "wrote it"
        )
    return found


def objective_config(kind: str, writer: str = "config.json") -> type[ObjectiveConfig]:
    """The section of an objective, of the house or `module:Class`. Raises: ConfigError where there is none."""
    if kind in OBJECTIVES:
        return OBJECTIVES[kind]
    return import_objective(kind, f"{writer}: objective.kind").Config


def import_objective(kind: str, where: str) -> Any:
    """The objective outside of the house that `module:Class` names. Raises: ConfigError where there is none; its line begins with
    `where`."""
    found = import_object(kind, where, f"one of {', '.join(OBJECTIVES)}")
    config = getattr(found, "Config", None)
    if not (isinstance(config, type) and issubclass(config, ObjectiveConfig)):
        raise ConfigError(f"{where} {kind!r} is no objective: it has no Config, which is its section of the recipe")
    return found


def import_object(name: str, where: str, otherwise: str) -> Any:
    """What `module:name` names. Raises: ConfigError, whose line begins with `where` and says what else it could be (`otherwise`)."""
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise ConfigError(f"{where} {name!r} is unknown; it is {otherwise}, or module:Name of one that Python can import")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two: a name that is none
        raise ConfigError(f"{where} {name!r} cannot be imported ({error}); put its folder on PYTHONPATH") from None


def _section(kind: Any, stored: Mapping[str, Any], prefix: str, writer: str) -> Any:
    hints, contents = get_type_hints(kind, include_extras=True), dict[str, Any]()
    names = [item.name for item in fields(kind)]
    for key in stored:
        if key not in names and key != "kind":
            raise ConfigError(f"{writer}: has the key {prefix}{key}, which this release does not know; use the release that wrote it")
    for name in names:
        hint = hints[name]
        notes = hint.__metadata__ if get_origin(hint) is Annotated else ()
        hint = hint.__origin__ if notes else hint
        if name not in stored:
            contents.update((name, note.value) for note in notes if isinstance(note, Absent))
        elif is_dataclass(hint):
            contents[name] = _section(hint, _mapping(stored[name], prefix + name, writer), f"{prefix}{name}.", writer)
        else:
            contents[name] = _typed(stored[name], hint, prefix + name, writer)
    return kind(**contents)


def _typed(value: Any, hint: Any, name: str, writer: str) -> Any:
    """A JSON value as its field's type. Raises: ConfigError where it has another one."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None and type(None) in args else _typed(value, args[0], name, writer)
    if origin is tuple and isinstance(value, list | tuple):
        whole = args[-1] is Ellipsis or len(args) == len(value)
        if whole:
            return tuple(_typed(item, args[0], name, writer) for item in value)
    elif origin is Literal and value in args:
        return value
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise ConfigError(f"{writer}: {name} is {value!r}, which is no value of that setting; restore the file from a copy")


def differences(before: Mapping[str, Any], recipe: Recipe, writer: str = "config.json") -> dict[str, list[Any]]:
    """Dotted name -> [value then, value now] of every setting in which a stored recipe and `recipe` differ. A setting that the stored
    one lacks counts as recipe_from_dict says. Raises: ConfigError, as recipe_from_dict."""
    now = recipe_to_dict(recipe)
    stored = dict(before)
    kinds = {name: (type(getattr(recipe, name)),) for name in get_type_hints(Recipe) if is_dataclass(getattr(recipe, name))}
    others = {name for name, (kind,) in kinds.items() if _kind_of(stored.get(name)) not in (None, getattr(kind, "kind", None))}
    # a section of another kind is compared as it stands: its own class may belong to another modality
    readable = stored | {name: now[name] for name in others}
    then = recipe_to_dict(recipe_from_dict(readable, kinds, writer)) | {name: stored[name] for name in others}
    old, new = dotted(_as_json(then)), dotted(_as_json(now))
    return {key: [old.get(key), new.get(key)] for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)}


def _kind_of(section: Any) -> Any:
    return section.get("kind") if isinstance(section, dict) else None


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(one) for key, one in value.items()}
    return [_as_json(one) for one in value] if isinstance(value, list | tuple) else value


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(dotted(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
