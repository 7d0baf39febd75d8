"""Counts the bytes that torch's CPU allocator holds, exactly: a C library that wraps the allocator's calls (allocations.c) is preloaded.
torch's own profiler misses releases by some threads."""

import ctypes
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


def preloaded(environment: dict[str, str], folder: Path) -> dict[str, str]:
    """Compile the library into `folder` with the system's C compiler, and return `environment` with it preloaded."""
    library = folder / "allocations.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl", "-lpthread"], check=True)
    return environment | {"LD_PRELOAD": str(library)}


class HeldBytes:
    """What torch holds on the CPU in this process, if the library was preloaded."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        for name in ("held_bytes", "most_bytes"):
            getattr(self._library, name).restype = ctypes.c_longlong

    def now(self) -> int:
        """Return the bytes that are held now."""
        return self._library.held_bytes()

    def most(self) -> int:
        """Return the most bytes that were held at once since the last restart()."""
        return self._library.most_bytes()

    def restart(self) -> None:
        """Let most() begin with what is held now."""
        self._library.restart_most()
