"""Tables of parameter names that convert tensors of another project, such as fairseq ("theirs"), to this project's ("ours") and back.
Tensors are whole and on the host. No model and no ranks here.

Shapes: D hidden, H heads, K head width, R rows of a table.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from recipes.errors import ConfigError

PLACEHOLDERS = {"n": r"(?P<n>\d+)", "leaf": r"(?P<leaf>weight|bias)"}
"""Regular expressions for `{n}` and `{leaf}` in a name."""


@dataclass(frozen=True)
class Form:
    """How tensors of another project become one of this project's (`join`), and exactly back (`split`)."""

    join: Callable[[list[Tensor]], Tensor]
    split: Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Entry:
    """One line of the conversion: `ours` is the name of a tensor of this project (None: it has none), `theirs` are the tensors of the
    other project that it is made of. In names, `{n}` is a number and `{leaf}` is weight or bias."""

    ours: str | None
    theirs: tuple[str, ...]
    form: Form


class _Found(NamedTuple):
    entry: Entry
    part: int
    placeholders: dict[str, str]


class NameTable:
    """Converts tensors of another project to this project's and back, by a list of entries. The first entry that matches a name is used."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = tuple(entries)
        self._patterns = [(_pattern(name), entry, part) for entry in self._entries for part, name in enumerate(entry.theirs)]

    def inside(self, prefix: str, outer: Iterable[Entry]) -> "NameTable":
        """Return the table of a larger model, in which the other project's names begin with `prefix`. `outer`: entries of its other
        tensors. They are looked up first."""
        return NameTable([*outer, *(replace(one, theirs=tuple(prefix + name for name in one.theirs)) for one in self._entries)])

    def to_ours(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return this project's tensors, by name, from another project's state dict.

        Raises: ConfigError for a name that no entry matches, and if one of several parts of a tensor is missing.
        """
        ours: dict[str, Tensor] = {}
        for name in state:
            found = self._find(name)
            if found.entry.ours is None or (key := found.entry.ours.format(**found.placeholders)) in ours:
                continue
            parts = [part.format(**found.placeholders) for part in found.entry.theirs]
            if missing := [part for part in parts if part not in state]:
                raise ConfigError(f"tensor {name} stands without {' and '.join(missing)}; all of them make one of ours: complete the file")
            ours[key] = found.entry.form.join([state[part] for part in parts])
        return ours

    def to_theirs(self, ours: dict[str, Tensor], names: Iterable[str], prefix: str = "") -> dict[str, Tensor]:
        """Return other project's name -> tensor for each of `names`, made from this project's tensors `ours`: the inverse of to_ours.
        Each name is looked up in the table with `prefix` before it. Tensors that this project does not have are left out.

        Raises: ConfigError for a name that no entry matches.
        """
        theirs: dict[str, Tensor] = {}
        for name in names:
            found = self._find(prefix + name)
            if found.entry.ours is not None:
                theirs[name] = found.entry.form.split(ours[found.entry.ours.format(**found.placeholders)])[found.part]
        return theirs

    def our_name(self, name: str) -> str | None:
        """Return the name of this project's tensor that is made of the other project's tensor `name`, alone or with others; None if this
        project has no such tensor. Raises: ConfigError for an unknown name."""
        found = self._find(name)
        return None if found.entry.ours is None else found.entry.ours.format(**found.placeholders)

    def _find(self, name: str) -> _Found:
        for pattern, entry, part in self._patterns:
            if match := pattern.fullmatch(name):
                return _Found(entry, part, match.groupdict())
        raise ConfigError(f"tensor {name} has no place in this model; check that configuration and weights belong together")


def without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, under their names without it. If there are none, return the whole state: only
    models with a task's head have the prefix."""
    inner = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return inner or state


def same(theirs: str, ours: str) -> Entry:
    """Return the entry of a tensor that is the same in both projects, except for its name."""
    return Entry(ours, (theirs,), Form(lambda parts: parts[0], lambda tensor: [tensor]))


def renamed(theirs: str, ours: str, parts: dict[str, str]) -> list[Entry]:
    """Return one entry for each module whose weight and bias differ only in the module's name. `parts`: the other project's name of the
    module -> this project's. `theirs` and `ours` are put before these names."""
    return [same(f"{theirs}{name}.{{leaf}}", f"{ours}{own}.{{leaf}}") for name, own in parts.items()]


def unread(*theirs: str) -> list[Entry]:
    """Return an entry for each name of `theirs`: tensors of the other project that this project does not have, such as buffers that can
    be computed, or heads that are not data2vec's."""
    return [Entry(None, (name,), Form(lambda parts: parts[0], lambda tensor: [tensor])) for name in theirs]


def vector(theirs: str, ours: str) -> Entry:
    """Return the entry of a vector that the other project stores with two leading dimensions of size 1.
    Shapes: theirs (1, 1, D) -> ours (D,)."""
    return Entry(ours, (theirs,), Form(lambda parts: parts[0].flatten(), lambda tensor: [tensor.view(1, 1, -1)]))


def transposed(theirs: str, ours: str) -> Entry:
    """Return the entry of a matrix that the other project stores transposed. Shapes: theirs (rows, heads) -> ours (heads, rows)."""
    return Entry(ours, (theirs,), Form(lambda parts: parts[0].t().contiguous(), lambda tensor: [tensor.t().contiguous()]))


def padded_rows(theirs: str, ours: str, rows: int, padded: int) -> Entry:
    """Return the entry of a table that has `rows` rows in the other project. Here it has zero rows after them, `padded` rows in all."""

    def join(parts: list[Tensor]) -> Tensor:
        (table,) = parts
        return torch.cat([table, table.new_zeros(padded - len(table), *table.shape[1:])])

    return Entry(ours, (theirs,), Form(join, lambda tensor: [tensor[:rows]]))


def head_by_head(theirs: tuple[str, ...], ours: str, num_heads: int) -> Entry:
    """Return the entry of the attention's queries, keys and values. They are one tensor here, whose rows are ordered (head, q/k/v,
    width), so that a slice for tensor parallelism has whole heads. `theirs`: the names of three tensors, or of one.

    Shapes: three of theirs (D, ...), or one (3 D, ...) ordered (q/k/v, head, width) -> ours (3 D, ...).
    """

    def join(parts: list[Tensor]) -> Tensor:
        parts = parts if len(parts) == 3 else list(parts[0].chunk(3))
        return torch.stack([p.view(num_heads, -1, *p.shape[1:]) for p in parts], dim=1).flatten(0, 2)

    def split(tensor: Tensor) -> list[Tensor]:
        parts = [p.flatten(0, 1) for p in tensor.view(num_heads, 3, -1, *tensor.shape[1:]).unbind(1)]
        return parts if len(theirs) == 3 else [torch.cat(parts)]

    return Entry(ours, theirs, Form(join, split))


def query_value_bias(query: str, value: str, ours: str, num_heads: int) -> Entry:
    """Return the entry of the attention's biases in a model without key biases. The biases of queries and of values are two tensors in
    the other project, named `query` and `value`, and one tensor `ours` here.
    Shapes: two of theirs (D,) -> ours (heads, 2, head width)."""

    def join(parts: list[Tensor]) -> Tensor:
        return torch.stack([p.view(num_heads, -1) for p in parts], dim=1)

    return Entry(ours, (query, value), Form(join, lambda tensor: [p.flatten() for p in tensor.unbind(1)]))


def _pattern(name: str) -> re.Pattern[str]:
    text = re.escape(name)
    for placeholder, pattern in PLACEHOLDERS.items():
        text = text.replace(rf"\{{{placeholder}\}}", pattern)
    return re.compile(text)
