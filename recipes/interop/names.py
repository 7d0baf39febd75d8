"""Tables of parameter names: another code base's tensors as ours and back, whole, on the host. Knows no model and no ranks.

Shapes: D hidden, H heads, K head width, R rows of a table.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recipes.errors import ConfigError

PLACES = {"n": r"(?P<n>\d+)", "leaf": r"(?P<leaf>weight|bias)"}
"""What `{n}` and `{leaf}` in a name stand for."""


@dataclass(frozen=True)
class Form:
    """How their tensors, one or several, lie in one of ours; `split` undoes `join` exactly."""

    join: Callable[[list[Tensor]], Tensor]
    split: Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Entry:
    """One tensor of ours (None: no module of ours reads it) and theirs that make it, with `{n}` and `{leaf}` in the names."""

    ours: str | None
    theirs: tuple[str, ...]
    form: Form


class _Found(NamedTuple):
    entry: Entry
    part: int
    places: dict[str, str]


class NameTable:
    """Both directions of a list of entries; the first entry that fits a name holds."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._patterns = [(_pattern(name), entry, part) for entry in entries for part, name in enumerate(entry.theirs)]

    def to_ours(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our whole tensors from a state dict of theirs.

        Raises: ConfigError for a name that the table does not know, and where one of several parts is missing.
        """
        ours: dict[str, Tensor] = {}
        for name in state:
            found = self._find(name)
            if found.entry.ours is None or (key := found.entry.ours.format(**found.places)) in ours:
                continue
            parts = [part.format(**found.places) for part in found.entry.theirs]
            if missing := [part for part in parts if part not in state]:
                raise ConfigError(f"tensor {name} stands without {' and '.join(missing)}; all of them make one of ours: complete the file")
            ours[key] = found.entry.form.join([state[part] for part in parts])
        return ours

    def to_theirs(self, ours: dict[str, Tensor], names: Iterable[str], prefix: str = "") -> dict[str, Tensor]:
        """Their tensors called prefix + name, under `names`; those that no module of ours reads are left out. Inverse of to_ours.

        Raises: ConfigError for a name that the table does not know.
        """
        theirs: dict[str, Tensor] = {}
        for name in names:
            found = self._find(prefix + name)
            if found.entry.ours is not None:
                theirs[name] = found.entry.form.split(ours[found.entry.ours.format(**found.places)])[found.part]
        return theirs

    def our_name(self, name: str) -> str | None:
        """Our name of the tensor that holds theirs; None where no module of ours reads it. Raises: ConfigError for an unknown name."""
        found = self._find(name)
        return None if found.entry.ours is None else found.entry.ours.format(**found.places)

    def _find(self, name: str) -> _Found:
        for pattern, entry, part in self._patterns:
            if match := pattern.fullmatch(name):
                return _Found(entry, part, match.groupdict())
        raise ConfigError(f"tensor {name} has no place in this model; check that configuration and weights belong together")


def without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix` without it, as a model with a task's head has them; the state itself where none is."""
    inner = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return inner or state


def same(theirs: str, ours: str) -> Entry:
    """A tensor of the same shape."""
    return Entry(ours, (theirs,), Form(lambda parts: parts[0], lambda tensor: [tensor]))


def renamed(theirs: str, ours: str, parts: dict[str, str]) -> list[Entry]:
    """Modules of the same shapes: `parts` maps their names to ours, `theirs` and `ours` stand before them."""
    return [same(f"{theirs}{name}.{{leaf}}", f"{ours}{own}.{{leaf}}") for name, own in parts.items()]


def unread(*theirs: str) -> list[Entry]:
    """Tensors that no module of ours reads: buffers that are computed, heads that are not data2vec's."""
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
    """Queries, keys and values in one tensor whose rows are ordered (head, q/k/v, width), so that a TP slice holds whole heads.

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
    """Biases of queries and values, where keys have none. Shapes: two of (D,) -> (H, 2, K)."""

    def join(parts: list[Tensor]) -> Tensor:
        return torch.stack([p.view(num_heads, -1) for p in parts], dim=1)

    return Entry(ours, (query, value), Form(join, lambda tensor: [p.flatten() for p in tensor.unbind(1)]))


def _pattern(name: str) -> re.Pattern[str]:
    text = re.escape(name)
    for place, pattern in PLACES.items():
        text = text.replace(rf"\{{{place}\}}", pattern)
    return re.compile(text)
