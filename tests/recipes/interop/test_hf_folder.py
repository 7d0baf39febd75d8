"""A Hugging Face directory is read in each of its forms: one file, shards, old pickles; and what is damaged or missing is named."""

import json
import os
import shutil
import socket
import time
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from httpx2 import ReadError, RemoteProtocolError

from recipes.errors import ConfigError
from recipes.interop.hf_folder import HfFolder, find_hf_folder
from tests.recipes.interop.sources import hf_copy, hf_tensors


class Runs:
    """An object whose unpickling makes a file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self._path,)


def as_bin(folder: Path, legacy: bool) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(hf_tensors("text"), folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)


def as_shards(folder: Path, ending: str) -> None:
    from safetensors.torch import save_file

    (folder / "model.safetensors").unlink()
    tensors, weight_map = hf_tensors("text"), {}
    for number in (1, 2):
        name = {"safetensors": f"model-{number}-of-2.safetensors", "bin": f"pytorch_model-{number}-of-2.bin"}[ending]
        part = {key: tensors[key] for key in sorted(tensors)[number - 1 :: 2]}
        save_file(part, folder / name) if ending == "safetensors" else torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}[ending]
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


FORMS = {
    "one file": lambda folder: None,
    "shards": lambda folder: as_shards(folder, "safetensors"),
    "pickle": lambda folder: as_bin(folder, legacy=False),
    "legacy pickle": lambda folder: as_bin(folder, legacy=True),
    "pickled shards": lambda folder: as_shards(folder, "bin"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_tensors(form: str, tmp_path: Path) -> None:
    FORMS[form](hf_copy("text", tmp_path / "hf"))
    folder, expected = HfFolder(tmp_path / "hf", "--from hf"), hf_tensors("text")
    assert set(folder.names) == expected.keys() and folder.config["model_type"] == "data2vec-text"
    assert all(torch.equal(folder.tensor(name), tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_holds_more_than_tensors_is_refused_and_not_run(legacy: bool, tmp_path: Path) -> None:
    folder = hf_copy("text", tmp_path / "hf")
    (folder / "model.safetensors").unlink()
    made, path = tmp_path / "made", folder / "pytorch_model.bin"
    torch.save({"a": torch.ones(1), "b": Runs(str(made))}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        ConfigError, match=r"^--from hf: pytorch_model\.bin names the function \w+\.mkdir, which is never loaded; do not"
    ) as caught:
        HfFolder(folder, "--from hf")
    assert not made.exists() and "\n" not in str(caught.value)
    torch.save({"a": torch.ones(1), "epoch": 3}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ConfigError, match="holds more than a dictionary of tensors"):
        HfFolder(folder, "--from hf")


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    folder = hf_copy("text", tmp_path / "hf")
    as_shards(folder, "safetensors")
    (folder / "model-2-of-2.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"1 of its 2 files of weights are missing, such as model-2-of-2\.safetensors; copy"):
        HfFolder(folder, "--from hf")
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ConfigError, match=r"has neither model\.safetensors nor pytorch_model\.bin"):
        HfFolder(folder, "--from hf")
    (folder / "model.safetensors").write_bytes(b"not it")
    with pytest.raises(ConfigError, match=r"model\.safetensors cannot be read as a file of tensors"):
        HfFolder(folder, "--from hf")
    (folder / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"config\.json is no JSON object"):
        HfFolder(folder, "--from hf")
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        HfFolder(folder, "--from hf")
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"has no config\.json, so no Hugging Face directory"):
        HfFolder(folder, "--from hf")


def test_a_shard_without_a_tensor_that_the_index_names_is_an_error(tmp_path: Path) -> None:
    folder = hf_copy("text", tmp_path / "hf")
    as_shards(folder, "safetensors")
    shutil.copyfile(folder / "model-1-of-2.safetensors", folder / "model-2-of-2.safetensors")
    read = HfFolder(folder, "--from hf")
    with pytest.raises(ConfigError, match=r"model-2-of-2\.safetensors does not hold the tensor "):
        for name in read.names:
            read.tensor(name)


@pytest.mark.parametrize("weight_map", [None, [], "a", {"a": 1}, {"a": None}])
def test_an_index_whose_map_is_none_is_an_error(weight_map: object, tmp_path: Path) -> None:
    folder = hf_copy("text", tmp_path / "hf")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ConfigError, match=r"^--from hf: model\.safetensors\.index\.json has no weight_map from tensors to files; copy it"):
        HfFolder(folder, "--from hf")


@pytest.mark.parametrize("weights", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"])
def test_weights_are_downloaded_in_one_form_and_safetensors_come_first(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def download(name: str, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append("*.bin" in allow_patterns)
        if any(fnmatch(weights, pattern) for pattern in allow_patterns):
            (tmp_path / weights).touch()
        return str(tmp_path)

    monkeypatch.setattr("recipes.interop.hf_folder.snapshot_download", download)
    monkeypatch.setattr("recipes.interop.hf_folder._answers", lambda: True)
    assert find_hf_folder("a/b") == tmp_path and (tmp_path / weights).exists()
    assert asked == ([False, True] if weights.endswith(".bin") else [False])


@pytest.mark.parametrize("lost", [ReadError("connection lost"), RemoteProtocolError("connection lost"), RuntimeError("connection lost")])
def test_a_connection_that_is_lost_during_a_download_is_an_error_of_the_user(lost: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise lost

    monkeypatch.setattr("recipes.interop.hf_folder.snapshot_download", download)
    monkeypatch.setattr("recipes.interop.hf_folder._answers", lambda: True)
    with pytest.raises(ConfigError, match=r"^--from a/b: no such folder, and .* hub does not give it \(connection lost\); name a local"):
        find_hf_folder("a/b")


def test_a_folder_is_found_and_what_is_none_is_refused_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf").mkdir()
    (tmp_path / "c.pt").touch()
    assert find_hf_folder("hf") == Path("hf")
    for name, complaint in (
        ("./nowhere", "no such folder; name a Hugging Face directory"),
        (str(tmp_path / "nowhere"), "no such folder; name a Hugging Face directory"),
        ("c.pt", "is a file; .*; for a checkpoint of fairseq add --format fairseq"),
    ):
        with pytest.raises(ConfigError, match=f"^--from {name}: {complaint}"):
            find_hf_folder(name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    start = time.perf_counter()
    for name in ("facebook/data2vec-text-base", "a/b/c", "not a name"):
        with pytest.raises(ConfigError, match=f"^--from {name}: no such folder, and the Hugging Face hub .*does not give it"):
            find_hf_folder(name)
    assert time.perf_counter() - start < 5


def test_a_hub_that_does_not_answer_is_given_up_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("recipes.interop.hf_folder.HUB_SECONDS", 0.2)
        start = time.perf_counter()
        with pytest.raises(ConfigError, match=r"^--from a/b: no such folder, .* hub \(http://127.*\) does not give it: no answer"):
            find_hf_folder("a/b")
        assert time.perf_counter() - start < 5
