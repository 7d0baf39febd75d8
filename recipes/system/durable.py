"""Writes small files so that content and name survive a power cut. Torch-free; independent of the content."""

import os
from pathlib import Path


def write_text_atomically(path: Path, text: str) -> None:
    """Replace a small file. A reader sees the old or the new content, never a part of it, and a power cut does not lose it."""
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """As write_text_atomically, for bytes."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush the content of a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
