"""Reads a fairseq checkpoint (.pt) without fairseq and without running anything that is in the file: classes that torch does not regard as
safe become objects that only keep what they were given. The result is plain: dicts, lists, numbers, texts and tensors."""

import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from recipes.errors import ConfigError
from recipes.interop.unpickling import UNREADABLE, complaint

LEGACY_PICKLES = 5
"""Number of pickles at the beginning of a file that torch wrote before 1.6: magic number, version, system, content, names of storages."""
REFERENCE = re.compile(r"\$\{([\w.]+)\}")
"""A setting that stands for the value of another one, such as ${task.tokens_per_sample}."""


class Inert:
    """An object of a class that is not loaded. It keeps the arguments and the state that the file gives to it, and does nothing."""

    def __new__(cls, *arguments: Any, **_: Any) -> "Inert":
        """Return an object that keeps the arguments."""
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        self.arguments: tuple[Any, ...]
        self.state: Any

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state


def _empty_dictionary(*_: Any) -> "OrderedDict[Any, Any]":
    return OrderedDict()


STAND_INS: dict[str, Any] = {"collections.defaultdict": _empty_dictionary}
"""Classes whose objects torch fills with items, which it does for dictionaries only -> what is made instead."""


def read_fairseq_file(path: Path, source: str) -> dict[str, Any]:
    """Return the content of a checkpoint, its tensors mapped from the file if torch can do that. `source`: beginning of messages.

    Raises: ConfigError if the file cannot be read, or is no fairseq checkpoint.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise ConfigError(f"{source}: {found}; name a fairseq checkpoint, which is one .pt file")
    try:
        is_zip = zipfile.is_zipfile(path)
        names = sorted(_class_names(path, is_zip))
        stubs: list[Any] = [(STAND_INS.get(name) or type("Inert", (Inert,), {}), name) for name in names]
        with _only_inert(stubs):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except UNREADABLE as error:
        raise ConfigError(f"{source}: {complaint(error)}") from None
    if (
        not isinstance(content, dict)
        or not isinstance(content.get("model"), dict)
        or not all(isinstance(name, str) for name in content["model"])
    ):
        raise ConfigError(f"{source}: is no fairseq checkpoint, which has a dictionary `model` beside `cfg` or `args`; name one")
    return content


@contextmanager
def _only_inert(stubs: list[Any]) -> Iterator[None]:
    """In this block, torch loads its own list of safe classes and `stubs`, but not what other libraries have added to the list."""
    added = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(stubs):
            yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(added)


def _class_names(path: Path, is_zip: bool) -> set[str]:
    """Return module.name of every class or function that the file's pickles name. Nothing is loaded. Names of Python 2, in which torch
    writes standard modules, are also returned as those of today."""
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            inner = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if inner is None:
                return set()
            with archive.open(inner) as file:
                return set(_names_in(file))
    with path.open("rb") as file:
        return {name for _ in range(LEGACY_PICKLES) for name in _names_in(file)}


def _names_in(file: IO[bytes]) -> Iterator[str]:
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            yield f"{module}.{name}"
            yield ".".join(NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)))


def plain(value: Any) -> Any:
    """Return the value without inert objects: containers and nodes of OmegaConf as dicts, lists and values, a Namespace as a dict of its
    attributes, members of an enumeration as their values. Any other inert object becomes None."""
    if isinstance(value, dict):
        return {plain(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if not isinstance(value, Inert):
        return value
    if isinstance(value.state, dict):
        inner = next((value.state[key] for key in ("_content", "_val") if key in value.state), value.state)
        return plain(inner)
    return plain(value.arguments[0]) if len(value.arguments) == 1 else None


def resolved(value: Any, root: dict[str, Any]) -> Any:
    """Return nested settings in which each `${a.b}` is replaced by the value at a.b of `root`. If there is none, or references form a
    circle, it is left as it is."""
    if isinstance(value, dict):
        return {key: resolved(one, root) for key, one in value.items()}
    found, seen = value, set[str]()
    while isinstance(found, str) and (match := REFERENCE.fullmatch(found)):
        if found in seen:
            return value
        seen.add(found)
        found = _value_at(match[1].split("."), root)
    return value if found is None else found


def _value_at(keys: list[str], tree: Any) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
