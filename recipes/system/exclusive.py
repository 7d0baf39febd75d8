"""A block that one process at a time runs. Torch-free."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.errors import ConfigError


@contextmanager
def exclusively(path: Path, refusal: str) -> Iterator[None]:
    """Run the block while this process holds the lock file `path`. The kernel releases it if the process dies. Raises: ConfigError with the
    text `refusal` if another process holds it; OSError if the file cannot be opened."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(refusal) from None
        yield
