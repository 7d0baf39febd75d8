"""Recognize the errors that libraries raise when a device or the machine has no memory left. Torch-free.

What a training run can do about it: recipes/train/memory.py.
"""

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from recipes.errors import OutOfMemory

CLASS = "OutOfMemoryError"
"""Name of torch's error for a device without free memory. It is a subclass of RuntimeError, like most errors of torch."""
WORDS = re.compile(
    r"^CUDA error: out of memory|can't allocate memory|cannot allocate memory|CUBLAS_STATUS_ALLOC_FAILED|std::bad_alloc", re.I | re.M
)
PREAMBLE = re.compile(r"^(?:\[[^]]*\][^.]*\. )?(?:DefaultCPUAllocator: |CUDA out of memory\. )?")
"""What torch puts before the number: "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: "."""
DETAILS = re.compile(r" (?:Process \d+ has|Including non-PyTorch|Of the allocated|Error code|Buy new RAM).*")
LONGEST = 200


def out_of_memory(error: BaseException) -> str | None:
    """Return the library's message, shortened, if `error` is a failed allocation of memory; None if the error has another cause."""
    text = str(error)
    is_one = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    is_one = is_one or CLASS in (base.__name__ for base in type(error).__mro__)
    if not is_one and not (isinstance(error, RuntimeError) and WORDS.search(text)):
        return None
    lines = [line for line in text.splitlines() if WORDS.search(line)] or text.splitlines() or [""]
    return DETAILS.sub("", PREAMBLE.sub("", lines[0])).strip(" .")[:LONGEST] or type(error).__name__


def more_memory(words: str) -> str:
    """Return the error message for a command that ran out of memory and has no more specific advice. `words`: the library's own message."""
    return f"out of memory ({words}); end what else runs there, or use a device or a machine with more"


@contextmanager
def naming_out_of_memory(explain: Callable[[str], str] = more_memory) -> Iterator[None]:
    """In this block, an error of a library that has no memory left becomes OutOfMemory, an error that the user can fix. `explain` makes
    its message from the library's."""
    try:
        yield
    except Exception as error:
        words = None if isinstance(error, OutOfMemory) else out_of_memory(error)
        if words is None:
            raise
        raise OutOfMemory(explain(words)) from error
