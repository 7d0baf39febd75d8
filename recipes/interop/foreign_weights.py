"""The weights of another project, converted to this project's tensors one at a time, with checks of names, shapes and values. Which file
they are in, and which model they make, is decided by the callers."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from recipes.errors import ConfigError
from recipes.interop.names import NameTable

SHOWN_NAMES = 3
"""Maximum number of missing tensors that a message names."""


class ForeignWeights:
    """The tensors of another project that make up a network, or a part of one."""

    def __init__(self, table: NameTable, names: Iterable[str], read: Callable[[str], Tensor], source: str, prefix: str = "") -> None:
        """`names`: the tensors' names. `read` returns one of them in float32. `source`: beginning of messages. `prefix`: what is put
        before a name to find it in `table`. Raises: ConfigError for a name that has no place in the model."""
        self.source, self._table, self._read, self._prefix = source, table, read, prefix
        self.unread: list[str] = []
        """Names of tensors that this project does not have."""
        self._parts: dict[str, list[str]] = {}
        for name in names:
            ours = self._our_name(name)
            if ours is None:
                self.unread.append(name)
            else:
                self._parts.setdefault(ours, []).append(name)

    @property
    def names(self) -> list[str]:
        """The names of this project's tensors that the weights have."""
        return list(self._parts)

    def _our_name(self, name: str) -> str | None:
        try:
            return self._table.our_name(self._prefix + name)
        except ConfigError as error:
            raise ConfigError(f"{self.source}: {error}") from None

    def check_names(self, shapes: Mapping[str, torch.Size], may_lack: tuple[str, ...]) -> list[str]:
        """Check that the weights have every tensor of a model, and no other. Return the names of those that are missing and may be:
        their names begin with one of `may_lack`. `shapes`: this project's name -> shape.

        Raises: ConfigError with the number of wrong tensors and some of their names.
        """
        missing = [name for name in shapes if name not in self._parts]
        wrong = [name for name in missing if not name.startswith(may_lack)]
        if wrong:
            shown = ", ".join(f"{name} {tuple(shapes[name])}" for name in wrong[:SHOWN_NAMES])
            raise ConfigError(
                f"{self.source}: {len(wrong)} tensors that its configuration needs are missing, such as {shown} (this project's names); "
                "check that configuration and weights belong together"
            )
        for ours, theirs in self._parts.items():
            if ours not in shapes:
                raise ConfigError(
                    f"{self.source}: the model of its configuration has no tensor {theirs[0]}; check that configuration and weights "
                    "belong together"
                )
        return missing

    def tensor(self, ours: str, shape: torch.Size) -> Tensor:
        """Return this project's tensor `ours`, which must have this shape. Raises: ConfigError if a tensor of the source has another
        shape, or a value that is not finite."""
        names = self._parts[ours]
        on_meta = torch.empty(shape, device="meta")
        wanted = self._table.to_theirs({ours: on_meta}, names, self._prefix)
        state = {self._prefix + name: self._checked(name, wanted[name].shape) for name in names}
        try:
            return self._table.to_ours(state)[ours]
        except ConfigError as error:
            raise ConfigError(f"{self.source}: {error}") from None

    def _checked(self, name: str, shape: torch.Size) -> Tensor:
        return checked(self._read(name), name, tuple(shape), self.source)


def checked(tensor: Tensor, name: str, shape: tuple[int, ...], source: str) -> Tensor:
    """Return a tensor of another project that has this shape and finite values. `name`: its name there; `source`: beginning of messages.
    Raises: ConfigError if it has another shape, or values that are not finite."""
    if tuple(tensor.shape) != shape:
        raise ConfigError(
            f"{source}: tensor {name} is {tuple(tensor.shape)}, its configuration needs {shape}; check that configuration and weights "
            "belong together"
        )
    if not tensor.isfinite().all():
        num_wrong = int((~tensor.isfinite()).sum())
        raise ConfigError(
            f"{source}: {num_wrong:,} of {tensor.numel():,} values of tensor {name} are NaN or infinite; take a checkpoint from before that"
        )
    return tensor


def as_float32(tensor: Tensor, name: str, source: str) -> Tensor:
    """Return the tensor in float32. `name`: its name in the source; `source`: beginning of messages. Raises: ConfigError if it holds no
    floating-point weights, such as one that was quantised or is sparse."""
    if tensor.layout != torch.strided or not tensor.is_floating_point():
        kind = "sparse" if tensor.layout != torch.strided else str(tensor.dtype).removeprefix("torch.")
        raise ConfigError(f"{source}: tensor {name} is {kind}, which is no floating-point weight; save the model in float32 or float16")
    return tensor.float()
