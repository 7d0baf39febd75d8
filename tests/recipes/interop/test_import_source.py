"""What an imported run keeps of its source."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from recipes.errors import ConfigError
from recipes.interop.hf_files import CONFIG
from recipes.interop.import_source import FOLDER, UNREAD, ImportSource


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps({"model_type": "data2vec-text"}))
    save_file({"a": torch.arange(12.0).view(4, 3).half()}, folder / UNREAD)
    return folder


def test_a_run_that_was_not_imported_has_no_source(tmp_path: Path) -> None:
    source = ImportSource(tmp_path)
    assert source.config is None and source.names == frozenset()


def test_tensors_and_rows_are_read_as_float32(folder: Path) -> None:
    source = ImportSource(folder.parent)
    assert source.config == {"model_type": "data2vec-text"} and source.names == {"a"}
    assert torch.equal(source.tensor("a"), torch.arange(12.0).view(4, 3)) and source.tensor("a").dtype == torch.float32
    assert torch.equal(source.rows("a", 1, 3), torch.arange(3.0, 9.0).view(2, 3)) and source.rows("a", 0, 1).dtype == torch.float32


def test_without_unread_tensors_there_are_no_names(folder: Path) -> None:
    (folder / UNREAD).unlink()
    assert ImportSource(folder.parent).names == frozenset()


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_config_is_one_line(content: str, folder: Path) -> None:
    (folder / CONFIG).write_text(content)
    with pytest.raises(ConfigError, match=r"huggingface/config\.json: cannot be read \(.*\); import the model again$"):
        _ = ImportSource(folder.parent).config
    (folder / CONFIG).unlink()
    with pytest.raises(ConfigError, match=r"huggingface/config\.json: cannot be read"):
        _ = ImportSource(folder.parent).config


def test_a_damaged_file_of_tensors_is_one_line(folder: Path) -> None:
    (folder / UNREAD).write_bytes((folder / UNREAD).read_bytes()[:-3])
    with pytest.raises(ConfigError, match=r"huggingface/unread\.safetensors: cannot be read \(.*\); import the model again$"):
        _ = ImportSource(folder.parent).names
