"""The tensors of one micro-batch, which the data loader makes and the model reads. No files, ranks or modalities here.

Shapes: B batch, S sequence (tokens, frames or patches), M loss positions of the whole micro-batch.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Masks:
    """Masked positions of one micro-batch, at which the student's loss is computed."""

    mask_BS: Tensor
    """bool, True where the student regresses the target."""
    masked_index_M: Tensor
    """int64, the True positions of mask_BS in row-major order. Computed on the CPU: on the device it would need a synchronisation."""

    @staticmethod
    def of(mask_BS: Tensor) -> "Masks":
        """Build from one mask per sample, bool (B, S), on the CPU."""
        return Masks(mask_BS, mask_BS.flatten().nonzero()[:, 0])

    @property
    def num_masked(self) -> int:
        """Loss positions of this micro-batch (the published `sample_size`)."""
        return self.masked_index_M.numel()


@dataclass(frozen=True)
class Batch:
    """One micro-batch. `inputs` is what the student reads and `clean_inputs` what the teacher reads: token ids of shape
    (B, S) for text, the same waveform or image twice for the modalities whose front-end places the mask."""

    inputs: Tensor
    clean_inputs: Tensor
    masks: Masks
    padding_mask_BS: Tensor | None
    """bool, True at padding in `inputs`; None if no row is padded. Padding may be anywhere in a row."""
    clean_padding_mask_BS: Tensor | None
    """The same for `clean_inputs`."""
    num_tokens: int
    """Positions that are not padding: text tokens, frames or patches."""

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch with its tensors on `device`."""
        moved: dict[int, Tensor] = {}  # a tensor that is in two fields is moved once
        return _to(self, device, moved)


def _to(value: Any, device: torch.device, moved: dict[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        if id(value) not in moved:
            moved[id(value)] = value.to(device, non_blocking=True)
        return moved[id(value)]
    if isinstance(value, Batch | Masks):
        return type(value)(**{item.name: _to(getattr(value, item.name), device, moved) for item in fields(value)})
    return value
