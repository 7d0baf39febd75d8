"""Files of tensors in the safetensors format, written as a stream with hashes and read in blocks. Independent of engines and ranks.

The safetensors library writes whole dictionaries and maps whole files. Here a file is written tensor by tensor from any iterator, and every
byte is covered by a hash. A reader reads only what it needs, and a failing disk causes an OSError instead of a bus error.
"""

import hashlib
import json
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from recipes.errors import DamagedCheckpoint

HASHED_ELEMENTS = 256 * 1024
"""Elements that one hash covers in the files that are written (1 MiB). A rank that needs a part of a range reads and verifies little more
than that part."""
READ_ELEMENTS = 4 * 1024**2
"""Most elements that are read at a time (16 MiB), unless one hash covers more."""
ELEMENT_BYTES = 4
LENGTH_BYTES = 8
ALIGNMENT = 8  # of the header, as in files of the library


def hashes_of(tensor: Tensor) -> tuple[str, ...]:
    """Return the hashes of a flat float32 host tensor, in order: a sha256 for each HASHED_ELEMENTS elements, the last one maybe of
    fewer."""
    return tuple(hashlib.sha256(_bytes(part)).hexdigest() for part in tensor.split(HASHED_ELEMENTS))


def write_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[Tensor], metadata: dict[str, str]) -> str:
    """Write float32 host tensors to a safetensors file and sync it to the disk. `shapes`: name -> shape, in the order of `tensors`.

    Returns: the sha256 of the header, which holds `metadata`. Raises: OSError.
    """
    header = _header(shapes, metadata)
    with path.open("wb") as file:
        file.write(header)
        for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
            assert tensor.shape == shape and tensor.dtype == torch.float32, (name, tensor.shape, tensor.dtype)
            file.write(_bytes(tensor))
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(header).hexdigest()


def _header(shapes: Mapping[str, tuple[int, ...]], metadata: dict[str, str]) -> bytes:
    content: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + ELEMENT_BYTES * torch.Size(shape).numel()
        content[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _bytes(tensor: Tensor) -> memoryview:
    dense = tensor.detach().contiguous()
    # torch treats a slice of at most one element as contiguous, whatever its stride, and view(-1) would keep that stride.
    return dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy().data


class TensorFile:
    """Reads a safetensors file that write_tensors() wrote, and verifies what it reads. The file is open as long as this object exists."""

    def __init__(self, path: Path, header_sha256: str) -> None:
        """Read the header and compare its sha256. Raises: DamagedCheckpoint if the header is not as it was written; OSError."""
        self.path, self._file = path, path.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)
        length = self._file.read(LENGTH_BYTES)
        size = int.from_bytes(length, "little")
        text = self._file.read(size) if size <= os.fstat(self._file.fileno()).st_size else b""
        if hashlib.sha256(length + text).hexdigest() != header_sha256:
            raise DamagedCheckpoint(f"{path}: the header is not as it was written (its hash differs)")
        self._data = LENGTH_BYTES + size
        content = json.loads(text)
        self.metadata: dict[str, str] = content.pop("__metadata__")
        self._offsets = {name: entry["data_offsets"] for name, entry in content.items()}

    def blocks(self, name: str, first: int, stop: int, sha256: tuple[str, ...], hashed: int) -> Iterator[tuple[int, Tensor]]:
        """Read elements `first` to `stop` (not included) of the flat tensor `name`, and all others that share a hash with them. Yield
        (index of the block's first element, all values of the block) for blocks of about READ_ELEMENTS elements, in order. `sha256`: all
        hashes of the tensor. `hashed`: elements that each of them covers. Raises: DamagedCheckpoint, OSError."""
        begin, end = self._offsets[name]
        unit, at_once = hashed * ELEMENT_BYTES, max(1, READ_ELEMENTS // hashed)
        last = -(-stop // hashed)
        for number in range(first // hashed, last, at_once):
            after = min(number + at_once, last)
            data = bytearray(min(end - begin, after * unit) - number * unit)
            self._file.seek(self._data + begin + number * unit)
            read = memoryview(data)[: self._file.readinto(data)]
            for place, stored in zip(range(0, len(data), unit), sha256[number:after], strict=True):
                if hashlib.sha256(read[place : place + unit]).hexdigest() != stored:
                    damaged = number * hashed + place // ELEMENT_BYTES
                    raise DamagedCheckpoint(f"{self.path}: {name} is not as it was written (elements from {damaged:,})")
            yield number * hashed, torch.frombuffer(data, dtype=torch.float32)
