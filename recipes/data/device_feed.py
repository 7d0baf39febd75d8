"""Brings micro-batches to the device: from page-locked memory of the host, each while the one before it is computed. Reads no data."""

from collections.abc import Callable, Iterator, Sequence

import torch

from model.batch import Batch


class DeviceFeed:
    """Copies micro-batches to the device and finishes them there. On CUDA this happens on a stream of its own, so that the copy of a
    micro-batch runs beside the computation of the one before it. On the CPU batches stay where they are."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ahead: tuple[Batch, Batch] | None = None
        """A micro-batch on the host and its copy, which has begun and is not taken yet."""

    def batches(self, batches: Sequence[Batch], following: Callable[[], Batch | None] = lambda: None) -> Iterator[Batch]:
        """Yield the micro-batches of an update on the device, in order. When one is yielded, the copy of the next one has begun.

        `following`: returns the micro-batch after these, if it is built already. It is called when the last one has been computed, or when
        the host has sent all that computes it. If the next call begins with that micro-batch, its copy is there.
        """
        for number, batch in enumerate(batches):
            here = self._take(batch)
            if number + 1 < len(batches):
                self._start(batches[number + 1])
            yield here
        if (after := following()) is not None:
            self._start(after)

    def _start(self, batch: Batch) -> None:
        if self._stream is None:
            self._ahead = batch, batch.to(self._device).finished()
            return
        with torch.cuda.stream(self._stream):
            self._ahead = batch, batch.to(self._device).finished()

    def _take(self, batch: Batch) -> Batch:
        """Return the copy of the batch. What the current stream does from now on comes after the copy."""
        if self._ahead is None or self._ahead[0] is not batch:
            self._start(batch)
        assert self._ahead is not None
        (_, here), self._ahead = self._ahead, None
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)  # no other copy has begun
            for tensor in here.tensors():
                tensor.record_stream(current)  # else its memory would be free for the next copy while the current stream still reads
        return here


def pinned(batch: Batch, device: torch.device) -> Batch:
    """Return the batch in page-locked memory if `device` is a CUDA device, else the batch itself."""
    if device.type != "cuda":
        return batch
    with torch.cuda.device(device):  # a new thread begins with device 0, and pinning would create a context there on every rank
        return batch.pinned()
