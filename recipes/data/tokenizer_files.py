"""Names that a run's tokenizer may have in its folders. The name shows the kind. Imports no tokenizer library."""

from pathlib import Path

MODEL, JSON = "tokenizer.model", "tokenizer.json"
FILES = (JSON, MODEL)
"""The first that is there counts."""


def tokenizer_in(folder: Path) -> Path | None:
    """Return the path of the tokenizer in a folder; None if there is none."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)
