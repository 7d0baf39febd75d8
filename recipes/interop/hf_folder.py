"""Reads a Hugging Face directory: config.json, and the tensors of model.safetensors, of its shards, or of an old pytorch_model.bin. One
tensor is read at a time. What the names mean is in hf_format.py."""

import json
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError as HttpStatusError
from urllib.request import urlopen

import torch
from httpx2 import HTTPError
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recipes.errors import ConfigError, first_line
from recipes.interop.foreign_weights import as_float32
from recipes.interop.hf_files import CONFIG, WEIGHTS
from recipes.interop.unpickling import UNREADABLE, complaint

BIN = "pytorch_model.bin"
INDEX = ".index.json"
OPEN_FILES = 8
HUB_SECONDS = 5.0
"""How long the hub may take to answer. Its client would try again for minutes."""
FILES = ("*.json", "*.safetensors", "*.model", "*.txt")
"""Patterns of the files that are downloaded from the hub."""
BINS = "*.bin"
"""Pattern of the files that are downloaded too if a model has no safetensors. Many models have the same weights in both forms."""
HUB_ERRORS = (HFValidationError, HTTPError, RuntimeError, OSError)
"""What snapshot_download() raises. For a connection that is lost during a download, httpx2 raises HTTPError and hf_xet RuntimeError, which
are no OSErrors."""


class HfFolder:
    """A Hugging Face directory of a model."""

    def __init__(self, path: Path, source: str) -> None:
        """Read config.json and find the file of each tensor. `source`: beginning of error messages, such as `--from DIR`.

        Raises: ConfigError if config.json or a file with tensors is missing or damaged.
        """
        self.path, self.source = path, source
        self.config: dict[str, Any] = self._json(CONFIG)
        self._file_of = self._find_files()
        self._open = lru_cache(OPEN_FILES)(self._open_file)

    @property
    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._file_of)

    def tensor(self, name: str) -> Tensor:
        """Return one whole tensor, as float32 on the host. Raises: ConfigError if its file is damaged or does not hold it."""
        file = self._file_of[name]
        try:
            found = self._open(file).get_tensor(name)
        except (SafetensorError, KeyError, OSError) as error:
            raise ConfigError(
                f"{self.source}: {file} does not hold the tensor {name} ({first_line(error)}); copy that file again"
            ) from None
        return as_float32(found, name, self.source)

    def _find_files(self) -> dict[str, str]:
        """Return tensor name -> file name. Raises: ConfigError."""
        for name in (WEIGHTS, BIN):
            if (self.path / f"{name}{INDEX}").exists():
                file_of = self._weight_map(f"{name}{INDEX}")
                missing = sorted({file for file in file_of.values() if not (self.path / file).exists()})
                if missing:
                    found = f"{len(missing)} of its {len(set(file_of.values()))} files of weights are missing, such as {missing[0]}"
                    raise ConfigError(f"{self.source}: {found}; copy them there")
                return file_of
            if (self.path / name).exists():
                return dict.fromkeys(self._open_file(name).keys(), name)
        if (self.path / "checkpoints").is_dir():
            raise ConfigError(f"{self.source}: is a run dir of this project; it is used as it is, or exported by launch/convert.py export")
        raise ConfigError(f"{self.source}: has neither {WEIGHTS} nor {BIN}, nor an index of shards; copy the weights there")

    def _weight_map(self, name: str) -> dict[str, str]:
        """Return tensor name -> file name, as the index `name` has it. Raises: ConfigError."""
        file_of = self._json(name).get("weight_map")
        if not isinstance(file_of, dict) or not all(isinstance(file, str) for file in file_of.values()):
            raise ConfigError(f"{self.source}: {name} has no weight_map from tensors to files; copy it again")
        return file_of

    def _open_file(self, name: str) -> Any:
        """Open one file of tensors. Raises: ConfigError if it is damaged, or holds anything but tensors."""
        path = self.path / name
        try:
            return Pickled(path) if path.suffix == ".bin" else safe_open(path, framework="pt")
        except SafetensorError as error:
            raise ConfigError(f"{self.source}: {name} cannot be read as a file of tensors ({first_line(error)}); copy it again") from None
        except UNREADABLE as error:
            raise ConfigError(f"{self.source}: {name} {complaint(error)}") from None

    def _json(self, name: str) -> dict[str, Any]:
        try:
            values = json.loads((self.path / name).read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise ConfigError(f"{self.source}: has no {name}, so no Hugging Face directory; name one with {CONFIG} and weights") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{self.source}: {name} cannot be read ({first_line(error)}); copy it again") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{self.source}: {name} is no JSON object; copy it again")
        return values


class Pickled:
    """The tensors of a file that torch.save() wrote. It is mapped if torch can do that, and nothing in it is executed (weights_only)."""

    def __init__(self, path: Path) -> None:
        """Raises: pickle.UnpicklingError if the file holds anything but tensors; RuntimeError, ValueError, OSError if it is damaged."""
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
            raise ValueError("it holds more than a dictionary of tensors")
        self._state: dict[str, Tensor] = state

    def keys(self) -> Iterator[str]:
        """Return the names of all tensors."""
        return iter(self._state)

    def get_tensor(self, name: str) -> Tensor:
        """Return one tensor. Raises: KeyError."""
        return self._state[name]


def find_hf_folder(name: str, flag: str = "--from ", *, downloads: bool = True) -> Path:
    """Return the Hugging Face directory `name`: a local folder, or the copy of a hub name, which is downloaded if needed.
    `flag`: the option that `name` was given with, such as "--from ", or "". `downloads`: False takes a hub name only from an earlier
    download.

    Raises: ConfigError if there is no such folder and the hub cannot be reached or does not have it.
    """
    path = Path(name).expanduser()
    if path.exists() or path.is_absolute() or name.startswith("."):
        if not path.is_dir():
            found = "is a file" if path.exists() else "no such folder"
            remedy = "; for a checkpoint of fairseq add --format fairseq" if path.exists() else " or a hub name"
            raise ConfigError(f"{flag}{name}: {found}; name a Hugging Face directory (config.json and weights){remedy}")
        return path
    cached = not (downloads and _answers())
    try:
        return _download(name, cached)
    except LocalEntryNotFoundError:
        if not downloads:
            raise ConfigError(
                f"{flag}{name}: no such folder, and no earlier download from the Hugging Face hub, of which a dry run downloads nothing; "
                "name a local directory, or leave --dry-run out"
            ) from None
        raise ConfigError(
            f"{flag}{name}: no such folder, and the Hugging Face hub ({constants.ENDPOINT}) does not give it: no answer, and no copy "
            "of an earlier download; name a local directory"
        ) from None
    except HUB_ERRORS as error:
        raise ConfigError(
            f"{flag}{name}: no such folder, and the Hugging Face hub does not give it ({first_line(error)}); name a local directory"
        ) from None


def _download(name: str, cached: bool) -> Path:
    """Return the folder with a copy of the model `name` of the hub. `cached`: only of an earlier download. Raises: HUB_ERRORS."""
    folder = Path(snapshot_download(name, allow_patterns=list(FILES), local_files_only=cached))
    if (folder / WEIGHTS).exists() or (folder / f"{WEIGHTS}{INDEX}").exists():
        return folder
    return Path(snapshot_download(name, allow_patterns=[*FILES, BINS], local_files_only=cached))


def _answers() -> bool:
    """True if the hub answers within HUB_SECONDS. False also if the user wants to be offline (HF_HUB_OFFLINE)."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with urlopen(constants.ENDPOINT, timeout=HUB_SECONDS):
            return True
    except HttpStatusError:
        return True  # an answer, whatever it says
    except (OSError, HTTPException, ValueError):
        return False
