"""The batch that crosses from data to model: tensors of one micro-batch. Knows nothing of files, ranks or modalities.

Shapes: B batch, S sequence (tokens, frames or patches), M loss positions of the whole micro-batch.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch. `inputs` is what the student reads and `clean_inputs` what the teacher reads: token ids of shape
    (B, S) for text, the same waveform or image twice for the modalities whose front-end places the mask."""

    inputs: Tensor
    clean_inputs: Tensor
    mask_BS: Tensor
    """bool, True where the student regresses the target."""
    masked_index_M: Tensor
    """int64, the True positions of mask_BS in row-major order (drawn on the CPU, so no device sync finds them)."""
    padding_mask_BS: Tensor | None
    """bool, True at padding in `inputs`; None where no row is padded. Padding may stand anywhere in a row."""
    clean_padding_mask_BS: Tensor | None
    """The same for `clean_inputs`."""
    num_tokens: int
    """Positions that are not padding: text tokens, frames or patches."""

    @property
    def num_masked(self) -> int:
        """Loss positions of this micro-batch (the published `sample_size`)."""
        return self.masked_index_M.numel()

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {id(v): v.to(device, non_blocking=True) for v in values.values() if isinstance(v, Tensor)}  # one tensor twice moves once
        return Batch(**{name: moved.get(id(v), v) for name, v in values.items()})
