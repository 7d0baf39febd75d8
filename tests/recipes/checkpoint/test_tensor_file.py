"""Files of tensors: the safetensors library can read them, parts are read back bitwise, and every damage is detected."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recipes.checkpoint import tensor_file
from recipes.checkpoint.tensor_file import TensorFile, hashes_of, write_tensors
from recipes.errors import DamagedCheckpoint

SHAPES = {"a/weight": (7, 3), "b/scalar": (), "c/bias": (5,)}
HASHED = 4  # elements


@pytest.fixture
def tensors(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    monkeypatch.setattr(tensor_file, "HASHED_ELEMENTS", HASHED)
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def written(path: Path, tensors: dict[str, torch.Tensor]) -> str:
    return write_tensors(path, SHAPES, iter(tensors.values()), {"key": "value"})


def read(path: Path, header: str, name: str, first: int, stop: int, sha256: tuple[str, ...]) -> torch.Tensor:
    """Return the elements from `first` to `stop`, put together from the blocks."""
    blocks = list(TensorFile(path, header).blocks(name, first, stop, sha256, HASHED))
    begin = blocks[0][0]
    return torch.cat([values for _, values in blocks])[first - begin : stop - begin]


def test_the_safetensors_library_reads_our_files(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    header = written(tmp_path / "x", tensors)
    assert load_file(tmp_path / "x").keys() == tensors.keys()
    assert all(torch.equal(value, tensors[name]) for name, value in load_file(tmp_path / "x").items())
    assert TensorFile(tmp_path / "x", header).metadata == {"key": "value"}


@pytest.mark.parametrize("number", [2, 4])
def test_another_number_of_tensors_than_was_announced_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], number: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        write_tensors(tmp_path / "x", SHAPES, iter([*tensors.values(), torch.ones(1)][:number]), {})


@pytest.mark.parametrize("first", [4, 3, 2], ids=["none", "one", "two"])
def test_a_slice_is_written_as_its_values_whatever_its_stride(tmp_path: Path, first: int) -> None:
    values = torch.arange(12.0).view(4, 3)[:, 1][first:]
    assert values.stride() == (3,) and hashes_of(values) == hashes_of(values.clone()) and len(hashes_of(values)) == 1
    write_tensors(tmp_path / "x", {"a": tuple(values.shape)}, iter([values]), {})
    assert torch.equal(load_file(tmp_path / "x")["a"], values)


def test_every_part_is_read_back_and_only_its_blocks_are_read(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    header, flat = written(tmp_path / "x", tensors), tensors["a/weight"].view(-1)
    hashes = hashes_of(flat)
    assert len(hashes) == 6
    for first in range(21):
        for stop in range(first + 1, 22):
            assert torch.equal(read(tmp_path / "x", header, "a/weight", first, stop, hashes), flat[first:stop])
            unread = tuple(h if first // HASHED <= i <= (stop - 1) // HASHED else "?" for i, h in enumerate(hashes))
            read(tmp_path / "x", header, "a/weight", first, stop, unread)


def test_every_flipped_byte_and_every_truncation_is_detected(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "x"
    header, whole = written(path, tensors), path.read_bytes()
    hashes = {name: hashes_of(tensor.view(-1)) for name, tensor in tensors.items()}
    damaged = [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(len(whole))]
    for content in [*damaged, *(whole[:length] for length in range(len(whole)))]:
        path.write_bytes(content)
        with pytest.raises(DamagedCheckpoint, match="not as it was written"):
            for name, tensor in tensors.items():
                read(path, header, name, 0, tensor.numel(), hashes[name])


def test_a_file_is_synced_with_all_its_bytes(tmp_path: Path, tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    written(tmp_path / "x", tensors)
    assert synced == [(tmp_path / "x").stat().st_size]
