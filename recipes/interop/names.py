"""Tables of parameter names that convert tensors of another code base ("theirs") to this project's ("ours") and back. Tensors are
whole and on the host. No model and no ranks here.

Shapes: D hidden, H heads, K head width, R rows of a table.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recipes.errors import ConfigError

PLACEHOLDERS = {"n": r"(?P<n>\d+)", "leaf": r"(?P<leaf>weight|bias)"}
"""Regular expressions for `{n}` and `{leaf}` in a name."""


@dataclass(frozen=True)
class Form:
    """How one or several of their tensors make one of ours (`join`). `split` is the exact inverse."""

    join: Callable[[list[Tensor]], Tensor]
    split: Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Entry:
    """The name of one of our tensors (None: this model has no such tensor) and the names of theirs that make it. Names may contain
    `{n}` and `{leaf}`."""

    ours: str | None
    theirs: tuple[str, ...]
    form: Form


class _Found(NamedTuple):
    entry: Entry
    part: int
    placeholders: dict[str, str]


class NameTable:
    """Conversion by a list of entries, in both directions. The first entry that matches a name is used."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._patterns = [(_pattern(name), entry, part) for entry in entries for part, name in enumerate(entry.theirs)]

    def to_ours(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return our whole tensors from their state dict.

        Raises: ConfigError for a name that no entry matches, and if one of several parts is missing.
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
        """Return their tensors under `names`; in the table they are called prefix + name. Tensors that this model does not have are left
        out. Inverse of to_ours.

        Raises: ConfigError for a name that no entry matches.
        """
        theirs: dict[str, Tensor] = {}
        for name in names:
            found = self._find(prefix + name)
            if found.entry.ours is not None:
                theirs[name] = found.entry.form.split(ours[found.entry.ours.format(**found.placeholders)])[found.part]
        return theirs

    def our_name(self, name: str) -> str | None:
        """Return our name of the tensor that contains theirs; None if this model has none. Raises: ConfigError for an unknown name."""
        found = self._find(name)
        return None if found.entry.ours is None else found.entry.ours.format(**found.placeholders)

    def _find(self, name: str) -> _Found:
        for pattern, entry, part in self._patterns:
            if match := pattern.fullmatch(name):
                return _Found(entry, part, match.groupdict())
        raise ConfigError(f"tensor {name} has no place in this model; check that configuration and weights belong together")


def without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it (a model with a task's head has one). If there is no such tensor,
    return the state itself."""
    inner = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return inner or state


def same(theirs: str, ours: str) -> Entry:
    """A tensor of the same shape."""
    return Entry(ours, (theirs,), Form(lambda parts: parts[0], lambda tensor: [tensor]))


def renamed(theirs: str, ours: str, parts: dict[str, str]) -> list[Entry]:
    """Modules of the same shapes: `parts` maps their names to ours. `theirs` and `ours` are the prefixes of these names."""
    return [same(f"{theirs}{name}.{{leaf}}", f"{ours}{own}.{{leaf}}") for name, own in parts.items()]


def unread(*theirs: str) -> list[Entry]:
    """Tensors that this model does not have: buffers that are computed, heads that are not data2vec's."""
    return [Entry(None, (name,), Form(lambda parts: parts[0], lambda tensor: [tensor])) for name in theirs]


def vector(theirs: str, ours: str) -> Entry:
    """Shapes: (1, 1, D) -> (D,)."""
    return Entry(ours, (theirs,), Form(lambda parts: parts[0].flatten(), lambda tensor: [tensor.view(1, 1, -1)]))


def transposed(theirs: str, ours: str) -> Entry:
    """Shapes: (R, H) -> (H, R)."""
    return Entry(ours, (theirs,), Form(lambda parts: parts[0].t().contiguous(), lambda tensor: [tensor.t().contiguous()]))


def padded_rows(theirs: str, ours: str, rows: int, padded: int) -> Entry:
    """A table of `rows` rows, with zero rows after them up to `padded`."""

    def join(parts: list[Tensor]) -> Tensor:
        (table,) = parts
        return torch.cat([table, table.new_zeros(padded - len(table), *table.shape[1:])])

    return Entry(ours, (theirs,), Form(join, lambda tensor: [tensor[:rows]]))


def head_by_head(theirs: tuple[str, ...], ours: str, num_heads: int) -> Entry:
    """Queries, keys and values in one tensor. Its rows are ordered (head, q/k/v, width), so that a TP slice has whole heads.

    Shapes: three of (D, ...) -> (3 D, ...); or one of (3 D, ...) whose rows are ordered (q/k/v, head, width).
    """

    def join(parts: list[Tensor]) -> Tensor:
        parts = parts if len(parts) == 3 else list(parts[0].chunk(3))
        return torch.stack([p.view(num_heads, -1, *p.shape[1:]) for p in parts], dim=1).flatten(0, 2)

    def split(tensor: Tensor) -> list[Tensor]:
        parts = [p.flatten(0, 1) for p in tensor.view(num_heads, 3, -1, *tensor.shape[1:]).unbind(1)]
        return parts if len(theirs) == 3 else [torch.cat(parts)]

    return Entry(ours, theirs, Form(join, split))


def query_value_bias(query: str, value: str, ours: str, num_heads: int) -> Entry:
    """Biases of queries and values of a model without key biases. Shapes: two of (D,) -> (H, 2, K)."""

    def join(parts: list[Tensor]) -> Tensor:
        return torch.stack([p.view(num_heads, -1) for p in parts], dim=1)

    return Entry(ours, (query, value), Form(join, lambda tensor: [p.flatten() for p in tensor.unbind(1)]))


def _pattern(name: str) -> re.Pattern[str]:
    text = re.escape(name)
    for placeholder, pattern in PLACEHOLDERS.items():
        text = text.replace(rf"\{{{placeholder}\}}", pattern)
    return re.compile(text)
