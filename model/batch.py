"""The tensors of one micro-batch, which the data loader makes and the model reads. No files, ranks or modalities here.

Shapes: B batch, S sequence (tokens, frames or patches), M loss positions of the whole micro-batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Masks:
    """Which positions of one micro-batch are masked. The student's loss is computed at them."""

    mask_BS: Tensor
    """bool (batch, sequence), True at masked positions, where the student predicts the target."""
    masked_index_M: Tensor
    """int64, the True positions of mask_BS in row-major order. Computed on the CPU: on the device it would need a synchronisation."""
    channel_mask_BD: Tensor | None = None
    """bool (batch, channels), True at channels that are 0 at all positions (fine-tuning of speech); None if there are none."""

    @staticmethod
    def of(mask_BS: Tensor) -> "Masks":
        """Build the Masks of a micro-batch from mask_BS: bool, shape (batch, sequence), on the CPU, True at masked positions."""
        return Masks(mask_BS, mask_BS.flatten().nonzero()[:, 0])

    @property
    def num_masked(self) -> int:
        """Number of masked positions in the whole micro-batch. fairseq calls it `sample_size`."""
        return self.masked_index_M.numel()


@dataclass(frozen=True)
class Segments:
    """Which samples share a row of one micro-batch. Positions attend within their own sample only. Padding forms a sample of its own."""

    segment_BS: Tensor
    """int32 (batch, sequence): number of the position's sample in its row, counted from 0; -1 at padding."""
    position_BS: Tensor
    """int64 (batch, sequence): place of the position in its sample, counted from 0 without padding; 0 at padding."""


@dataclass(frozen=True)
class Targets:
    """What a supervised loss compares the outputs with: a class, a number or a transcript for each sample."""

    values: Tensor
    """int64 (batch,): classes. float32 (batch, classes): shares of mixed classes. float32 (batch,): numbers. int64 (batch, letters):
    transcripts, padded on the right."""
    index_B: Tensor
    """int64 (batch,): number of each sample in its split. -1: the sample is not counted, since it only fills up the batch."""
    lengths_B: Tensor | None = None
    """int64 (batch,): letters of each transcript. None if targets are no transcripts."""

    def is_counted(self) -> Tensor:
        """Return bool (batch,), True for samples that the loss and the metrics count."""
        return self.index_B >= 0


class Unfinished(Protocol):
    """A dataclass that makes inputs of what the loader has read. Its tensors move with those of the batch."""

    def finish(self, inputs: Tensor) -> Tensor:
        """Return the inputs that student and teacher read."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch. The student reads `inputs`, the teacher reads `clean_inputs`. Text: token ids (batch, sequence), masked in
    `inputs`. Speech and vision: both are the same waveform or image, since the front-end places the mask."""

    inputs: Tensor
    clean_inputs: Tensor
    masks: Masks
    padding_mask_BS: Tensor | None
    """bool, True at padding in `inputs`; None if no row is padded. Padding may be anywhere in a row."""
    clean_padding_mask_BS: Tensor | None
    """bool, True at padding in `clean_inputs`; None if no row is padded."""
    num_tokens: int
    """Positions of the micro-batch that are not padding: text tokens, frames or patches."""
    targets: Targets | None = None
    """Labels of the samples; None in pre-training."""
    unfinished: "Unfinished | None" = None
    """What is left to do to the inputs on the device, before a network reads them; None: nothing."""
    segments: Segments | None = None
    """The samples of each row; None if a row is one sample."""
    is_counted: bool = True
    """False: the micro-batch only takes part in the collectives of an evaluation, and no metric counts it."""

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch with its tensors on `device`. The copies of pinned tensors run on the current stream, and the host does not
        wait for them."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """Return the same batch in page-locked memory of the host, which a CUDA device reads without the host. It needs such a device."""
        return self._mapped(Tensor.pin_memory)

    def finished(self) -> "Batch":
        """Return the batch whose inputs a network can read. What is left to do runs on the device of the inputs, on the current stream."""
        if self.unfinished is None:
            return self
        inputs = self.unfinished.finish(self.inputs)
        return replace(self, inputs=inputs, clean_inputs=inputs, unfinished=None)

    def tensors(self) -> list[Tensor]:
        """Return all tensors of the batch, each once."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self._mapped(note)
        return found

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        changed: dict[int, Tensor] = {}  # a tensor that is in two fields is changed once

        def mapped(value: Any) -> Any:
            if isinstance(value, Tensor):
                if id(value) not in changed:
                    changed[id(value)] = change(value)
                return changed[id(value)]
            if is_dataclass(value) and not isinstance(value, type):
                return replace(value, **{item.name: mapped(getattr(value, item.name)) for item in fields(value)})
            return value

        batch: Batch = mapped(self)
        return batch
