"""The student's or the teacher's weights of a checkpoint, as whole tensors on one process, one at a time."""

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from recipes.checkpoint.inspect import reading
from recipes.checkpoint.layout import Manifest
from recipes.checkpoint.load import CheckpointReader
from recipes.errors import ConfigError
from recipes.interop.consolidate import KIND_OF


class StoredWeights:
    """The weights of one network in a checkpoint: "student" or "teacher", a key of KIND_OF. For weights that the teacher shares with the
    student, the student's are read. Names are this project's, such as trunk.encoder.layers.0.ffn.fc1.weight."""

    def __init__(self, checkpoint: Path, weights: str) -> None:
        """Open the checkpoint. Raises: ConfigError if it has no such network or cannot be read; DamagedCheckpoint."""
        self.checkpoint, self._kind = checkpoint, KIND_OF[weights]
        if not checkpoint.exists():
            raise ConfigError(f"{checkpoint}: is gone; a run that goes on removes its old ones, so give the same command again")
        with reading(checkpoint):
            self._reader = CheckpointReader(checkpoint)
            self._own = frozenset(self._reader.names(self._kind))
        if not self._own:
            raise ConfigError(f"{checkpoint}: has no {weights}; its objective has none, take --weights student")

    @property
    def manifest(self) -> Manifest:
        """The checkpoint's manifest: counters, and facts about the run."""
        return self._reader.manifest

    @cached_property
    def names(self) -> list[str]:
        """Names of all parameters of the student, in the model's order. The teacher has those that begin with `trunk.`."""
        with reading(self.checkpoint):
            return self._reader.names(KIND_OF["student"])

    def tensor(self, name: str) -> Tensor:
        """Return one whole tensor, as float32 on the host. Its hashes are verified. Raises: ConfigError if the checkpoint has none or
        cannot be read; DamagedCheckpoint."""
        with reading(self.checkpoint):
            return self._reader.whole(self._kind if name in self._own else KIND_OF["student"], name)

    def copy_into(self, module: nn.Module, prefix: str = "") -> None:
        """Write the weights into the parameters of `module`. `prefix`: what stands before their names in the checkpoint. Raises: as
        tensor()."""
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(self.tensor(f"{prefix}{name}"))
