"""Parts of a random batch, with their parts of its masks."""

from dataclasses import replace

from torch import Tensor

from model.batch import Batch, Masks


def rows(batch: Batch, start: int, stop: int) -> Batch:
    """Return samples `start` to `stop` of a batch without padding."""
    assert batch.padding_mask_BS is None and batch.clean_padding_mask_BS is None
    share = batch.num_tokens // len(batch.inputs)
    mask_BS = batch.masks.mask_BS[start:stop]
    same = batch.clean_inputs is batch.inputs
    inputs = batch.inputs[start:stop]
    clean = inputs if same else batch.clean_inputs[start:stop]
    return replace(batch, inputs=inputs, clean_inputs=clean, masks=Masks.of(mask_BS), num_tokens=share * len(inputs))


def cropped(batch: Batch, samples: int, frames: int) -> Batch:
    """Return the first `samples` of each recording, which give `frames` frames."""
    waves_BT: Tensor = batch.inputs[:, :samples].contiguous()
    masks = Masks.of(batch.masks.mask_BS[:, :frames].contiguous())
    return replace(batch, inputs=waves_BT, clean_inputs=waves_BT, masks=masks, num_tokens=frames * len(waves_BT))
