"""Which errors mean that memory is exhausted, and their shortened messages."""

import errno

import pytest
import torch

from recipes.cluster.memory import naming_out_of_memory, out_of_memory
from recipes.errors import ConfigError, OutOfMemory

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of which 2.62 MiB is free. Process 12 has "
    "79.10 GiB memory in use. Of the allocated memory 78.50 GiB is allocated by PyTorch. See documentation for Memory Management"
)
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000 bytes. "
    "Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError(CUDA), "Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of which 2.62 MiB is free"),
        (RuntimeError(CPU), "can't allocate memory: you tried to allocate 4000000 bytes"),
        (MemoryError(), "MemoryError"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "[Errno 12] Cannot allocate memory"),
        (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"), "CUDA error: out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
        (
            MemoryError("Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback\nnumpy: Cannot allocate memory for 3 GiB"),
            "numpy: Cannot allocate memory for 3 GiB",
        ),
        (RuntimeError("shapes differ"), None),
        (RuntimeError("as if: CUDA out of memory"), None),
        (ValueError("out of memory"), None),
        (OSError(errno.ENOSPC, "No space left on device"), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_out_of_memory_errors_of_libraries_are_recognized_and_others_are_not(error: Exception, words: str | None) -> None:
    assert out_of_memory(error) == words


def test_a_real_failed_allocation_is_recognized() -> None:
    message = r"^out of memory \(can't allocate memory: you tried to allocate \d+ bytes\); end what else"
    with pytest.raises(OutOfMemory, match=message), naming_out_of_memory():
        torch.empty(1 << 60, dtype=torch.uint8)


def test_the_innermost_explanation_is_kept_and_other_errors_pass() -> None:
    inner = naming_out_of_memory(lambda words: f"inner: {words}")
    with pytest.raises(OutOfMemory, match=r"^inner: MemoryError$") as caught, naming_out_of_memory(), inner:
        raise MemoryError
    assert isinstance(caught.value.__cause__, MemoryError)
    for error in (ConfigError("x"), ZeroDivisionError()):
        with pytest.raises(type(error)), naming_out_of_memory():
            raise error
