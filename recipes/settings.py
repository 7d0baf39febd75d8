"""A recipe's settings as text and JSON: `--set`, config.json, bounds, and the differences between two recipes. Torch-free. The settings
themselves are in recipes/config.py."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Any, get_origin, get_type_hints

from model.bounds import Absent, Bounds
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.masked_config import Data2VecConfig
from recipes.objective_config import ObjectiveConfig
from recipes.objective_kinds import OBJECTIVES
from recipes.suggestions import similar_names
from recipes.values import complaint_about, expand_home, value_of_json, value_of_text

Kinds = Mapping[str, Sequence[type]]
"""Section of a recipe -> the classes that it may have. A section that is stored without a `kind` has the first one."""

REQUIRED_SECTIONS = frozenset({"model", "frontend", "mask", "teacher", "loss", "data", "optim", "run", "guard", "checkpoint"})
"""Sections that the config.json of every release has. A section that was added later may be missing and then has its defaults."""


def apply_overrides(recipe: Recipe, assignments: list[str]) -> Recipe:
    """Return the recipe with the texts `section.key=value` of --set applied in order. A section may contain another one
    (model.block.drop_path).

    Raises: ConfigError for a missing `=`, an unknown section or key, or a value of the wrong type.
    """
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: no '=' in it; write --set optim.lr=3e-4")
        if name.strip() not in settable(recipe):
            raise ConfigError(_unknown(recipe, name.strip()))
        recipe = _with(recipe, name.strip().split("."), _parsed(recipe, name.strip(), text.strip()))
    return recipe


def _parsed(section: Any, name: str, text: str) -> Any:
    *outer, key = name.split(".")
    for part in outer:
        section = getattr(section, part)
    return value_of_text(name, text, get_type_hints(type(section))[key])


def _with(section: Any, keys: Sequence[str], value: Any) -> Any:
    """Return a copy of the section in which the setting at the path `keys` (names of nested sections, then the setting) is `value`."""
    key, *rest = keys
    changed: dict[str, Any] = {key: _with(getattr(section, key), rest, value) if rest else value}
    return replace(section, **changed)


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with these settings, by their dotted names; the values are as JSON gives them back or as the recipe has them.
    Raises: ConfigError for a value of the wrong type."""
    hints = {name: hint for name, _, hint, _ in walk_settings(recipe)}
    for name, value in values.items():
        recipe = _with(recipe, name.split("."), _typed(value, hints[name], name, "config.json"))
    return recipe


def is_given(recipe: Recipe, name: str) -> bool:
    """True if the setting with this dotted name, such as run.max_steps, has another value than its section's default."""
    section, setting = name.split(".")
    own = getattr(recipe, section)
    return bool(getattr(own, setting) != getattr(type(own)(), setting))


def settable(section: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of all settings that --set may change: those inside of a section, not the recipe's name and modality, and not
    those of a section that is not in use (its property is_in_use). `prefix`: dotted name of `section` with a dot at the end."""
    names = []
    for item in fields(section):
        value = getattr(section, item.name)
        if is_dataclass(value) and getattr(value, "is_in_use", True):
            names += settable(value, f"{prefix}{item.name}.")
        elif prefix and not is_dataclass(value):
            names.append(prefix + item.name)
    return names


def _unknown(recipe: Recipe, name: str) -> str:
    if name.endswith(".kind"):
        return f"--set {name}: the kind of a section is the recipe's; name another --recipe"
    near = similar_names(name, settable(recipe))
    hint = f"did you mean {' or '.join(near)}?" if near else "--dry-run prints every key"
    return f"--set {name}: recipe {recipe.name} has no such key; {hint}"


def check_bounds(recipe: Recipe) -> None:
    """Check the type and the bounds of every setting. Raises: ConfigError for the first value that is wrong."""
    for name, value, hint, notes in walk_settings(recipe):
        complaint = complaint_about(value, hint, notes)
        if complaint:
            each = "each " if isinstance(value, tuple) else "it "
            raise ConfigError(f"{name} is {value!r}; {each}{complaint}")


def bounded_names(recipe: Recipe) -> list[str]:
    """Return the dotted names, such as optim.lr, of all settings of the recipe that have bounds."""
    return [name for name, _, _, notes in walk_settings(recipe) if any(isinstance(note, Bounds) for note in notes)]


def expand_homes(recipe: Recipe) -> Recipe:
    """Return the recipe with a leading `~` replaced by the user's home in every setting that is a path."""
    return with_changed(recipe, expand_home)


def with_changed(recipe: Recipe, change: Callable[[Any, Sequence[Any]], Any]) -> Recipe:
    """Return the recipe with what `change` makes of the value and the notes (walk_settings()) of every setting."""
    for name, value, _, notes in walk_settings(recipe):
        changed = change(value, notes)
        if changed != value:
            recipe = _with(recipe, name.split("."), changed)
    return recipe


def walk_settings(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any, tuple[Any, ...]]]:
    """Yield (dotted name, value, type, notes) of every setting. Notes are what stands beside the type in `Annotated`, such as Bounds."""
    hints = get_type_hints(type(section), include_extras=True)
    for name in (item.name for item in fields(section)):
        hint, value = hints[name], getattr(section, name)
        if is_dataclass(value):
            yield from walk_settings(value, f"{prefix}{name}.")
        else:
            notes = hint.__metadata__ if get_origin(hint) is Annotated else ()
            yield prefix + name, value, hint.__origin__ if notes else hint, notes


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as nested dicts of plain values, for json.dump. A section that may have one of several classes stores its
    `kind`."""
    return _to_dict(recipe)


def _to_dict(section: Any) -> dict[str, Any]:
    kind = getattr(section, "kind", None)
    found: dict[str, Any] = {} if kind is None else {"kind": kind}
    for item in fields(section):
        value = getattr(section, item.name)
        found[item.name] = _to_dict(value) if is_dataclass(value) else value
    return found


def recipe_from_dict(values: Mapping[str, Any], kinds: Kinds, writer: str = "config.json") -> Recipe:
    """Return the recipe from the nested dicts `values`, which recipe_to_dict() made in this or an older release. A setting that is
    missing has its default, or its value for older runs (`Absent`). `kinds`: section -> classes that it may have. Error messages begin
    with `writer`.

    Bounds are not checked, because a later release may have narrower ones than the release that stored the recipe.

    Raises: ConfigError for an unknown section, key or kind, a missing section that every release has, and a value of the wrong type.
    """
    _check_sections(values, writer)
    contents: dict[str, Any] = {name: _typed(values[name], str, name, writer) for name in ("name", "modality")}
    for name, hint in get_type_hints(Recipe).items():
        if name in values and name not in contents:
            stored = _mapping(values[name], name, writer)
            contents[name] = _section(_class_of(name, stored, kinds.get(name, (hint,)), writer), stored, f"{name}.", writer)
    return Recipe(**contents)


def _check_sections(values: Mapping[str, Any], writer: str) -> None:
    unknown = [name for name in values if name not in get_type_hints(Recipe)]
    if unknown:
        raise ConfigError(f"{writer}: has a section {unknown[0]}, which this release does not know; use the release that wrote it")
    missing = sorted((REQUIRED_SECTIONS | {"name", "modality"}) - values.keys())
    if missing:
        what = f"section {missing[0]}" if missing[0] in REQUIRED_SECTIONS else missing[0]
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
    """Return the class of the recipe's section `objective`. `kind` is a name of this repository, such as data2vec, or `module:Class`.
    Raises: ConfigError if there is none; the message begins with `writer`."""
    if kind in OBJECTIVES:
        return OBJECTIVES[kind]
    return import_objective(kind, f"{writer}: objective.kind").Config


def import_objective(kind: str, where: str) -> Any:
    """Import and return an objective's class from outside of this repository. `kind` is its name, module:Class. Raises: ConfigError if
    there is none; the message begins with `where`."""
    found = import_object(kind, where, f"one of {', '.join(OBJECTIVES)}")
    config = getattr(found, "Config", None)
    if not (isinstance(config, type) and issubclass(config, ObjectiveConfig)):
        raise ConfigError(f"{where} {kind!r} is no objective: it has no Config, which is its section of the recipe")
    return found


def import_object(name: str, where: str, otherwise: str) -> Any:
    """Import and return the object with the name `name`, which is module:Name. Raises: ConfigError if there is none. The message begins
    with `where`; `otherwise` says what the user may write instead of module:Name."""
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise ConfigError(f"{where} {name!r} is unknown; it is {otherwise}, or module:Name of one that Python can import")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two: not a valid module name
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
    try:
        return value_of_json(value, hint)
    except TypeError as error:
        raise ConfigError(
            f"{writer}: {name} is {error.args[0]!r}, which is no value of that setting; restore the file from a copy"
        ) from None


def differences(before: Mapping[str, Any], recipe: Recipe, writer: str = "config.json") -> dict[str, list[Any]]:
    """Return dotted name -> [stored value, current value] of all settings whose values in the stored recipe `before` and in `recipe`
    differ. A setting that is not stored has its default, or its value for older runs (`Absent`). Paths are compared with `~` expanded.
    Raises: ConfigError if `before` is not readable; the message begins with `writer`."""
    now = recipe_to_dict(expand_homes(recipe))
    stored = dict(before)
    kinds = {name: (type(getattr(recipe, name)),) for name in get_type_hints(Recipe) if is_dataclass(getattr(recipe, name))}
    others = {name for name, (kind,) in kinds.items() if _kind_of(stored.get(name)) not in (None, getattr(kind, "kind", None))}
    # a section of another kind is compared as stored, without parsing: its class may belong to another modality
    readable = stored | {name: now[name] for name in others}
    then = recipe_to_dict(expand_homes(recipe_from_dict(readable, kinds, writer))) | {name: stored[name] for name in others}
    old, new = dotted(_as_json(then)), dotted(_as_json(now))
    return {key: [old.get(key), new.get(key)] for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)}


def _kind_of(section: Any) -> Any:
    return section.get("kind") if isinstance(section, dict) else None


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(one) for key, one in value.items()}
    return [_as_json(one) for one in value] if isinstance(value, list | tuple) else value


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one flat dict: {"optim": {"lr": 1}} -> {"optim.lr": 1}. `prefix` is put before each name."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(dotted(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
