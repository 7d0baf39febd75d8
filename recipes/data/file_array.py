"""Numbers in a file, which are read part by part. A memory map would do the same, but while one thread waits for a page that is not in
memory, it holds Python's global lock, so the training waits too, on a network file system for long. These calls let other threads run."""

import os
import weakref
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from recipes.errors import ConfigError


class FileArray:
    """A one-dimensional array in a file. array[start:stop] reads this part. Pickled as the file's path; each process opens it itself."""

    def __init__(self, path: Path, dtype: DTypeLike, offset: int = 0) -> None:
        """`offset`: bytes before the first number."""
        self._path, self._dtype, self._offset = path, np.dtype(dtype), offset

    def __getitem__(self, part: slice) -> np.ndarray:
        """Return the numbers from part.start to part.stop, which are in the file. Raises: ConfigError if the file ends before."""
        size, first = self._bytes(part.start, part.stop)
        content = os.pread(self._descriptor, size, first)
        if len(content) < size:
            raise ConfigError(f"{self._path}: ends before byte {first + size:,}; remove its folder and prepare it again")
        return np.frombuffer(content, dtype=self._dtype)

    def will_read(self, start: int, stop: int) -> None:
        """Let the system read these numbers in the background."""
        size, first = self._bytes(start, stop)
        os.posix_fadvise(self._descriptor, first, size, os.POSIX_FADV_WILLNEED)

    def __reduce__(self) -> tuple[type["FileArray"], tuple[Path, np.dtype, int]]:
        return FileArray, (self._path, self._dtype, self._offset)

    def _bytes(self, start: int, stop: int) -> tuple[int, int]:
        return (stop - start) * self._dtype.itemsize, self._offset + start * self._dtype.itemsize

    @cached_property
    def _descriptor(self) -> int:
        descriptor = os.open(self._path, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        return descriptor
