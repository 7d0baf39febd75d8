"""What an imported run keeps of the Hugging Face directory that it was imported from: its config.json, and the tensors for which this
project's model has no place. Only reads."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from recipes.errors import ConfigError, first_line
from recipes.interop.hf_files import CONFIG

FOLDER, UNREAD = "huggingface", "unread.safetensors"


class ImportSource:
    """The folder `huggingface` of a run dir. A run that was not imported from there has none."""

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / FOLDER

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The source's config.json; None if the run was not imported from a Hugging Face directory. Raises: ConfigError if it is
        damaged."""
        if not self.folder.exists():
            return None
        with self._reading(CONFIG):
            values = json.loads((self.folder / CONFIG).read_text())
            if not isinstance(values, dict):
                raise ValueError("it is no JSON object")
            return values

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the tensors that were kept. Raises: ConfigError if their file is damaged."""
        if not (self.folder / UNREAD).exists():
            return frozenset()
        with self._reading(UNREAD):
            return frozenset(self._file.keys())

    def tensor(self, name: str) -> Tensor:
        """Return one whole tensor, as float32. Raises: ConfigError if the file is damaged."""
        with self._reading(UNREAD):
            return self._file.get_tensor(name).float()

    def rows(self, name: str, first: int, stop: int) -> Tensor:
        """Return the rows from `first` to `stop` (not included) of a tensor, as float32. Raises: ConfigError if the file is damaged."""
        with self._reading(UNREAD):
            return self._file.get_slice(name)[first:stop].float()

    @cached_property
    def _file(self) -> Any:
        return safe_open(self.folder / UNREAD, framework="pt")

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, SafetensorError) as error:
            raise ConfigError(f"{self.folder / name}: cannot be read ({first_line(error)}); import the model again") from None
