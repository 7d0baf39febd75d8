"""Tensors put together from made-up pieces of several ranks. Loading into a live run is tested in test_restore.py."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.checkpoint import tensor_file
from recipes.checkpoint.layout import Counters
from recipes.checkpoint.load import CheckpointReader
from recipes.errors import ConfigError, DamagedCheckpoint
from tests.recipes.checkpoint.pieces import KEY, NAME, made_up, shard, write_checkpoint

FULL = made_up((6, 8))
SIZES = (1, 2, 4)


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "HASHED_ELEMENTS", 5)


@pytest.mark.parametrize(("tp_dim", "tp_size"), [(None, 1), (None, 2), (0, 1), (0, 2), (0, 3), (1, 2), (1, 4)])
@pytest.mark.parametrize("dp_size", [1, 2, 5])
def test_a_tensor_is_whole_however_it_was_cut(tp_dim: int | None, tp_size: int, dp_size: int, tmp_path: Path) -> None:
    reader = CheckpointReader(write_checkpoint(tmp_path, FULL, tp_dim, tp_size, dp_size))
    assert torch.equal(reader.whole("master", NAME), FULL)
    assert (reader.names("master"), reader.names("exp_avg")) == ([NAME], [])
    assert reader.counters == Counters(step=7, update=9, samples=72, tokens=99)
    assert reader.verify() == len([f for f in tmp_path.glob("rank_*") if KEY.encode() in f.read_bytes()]) > 0


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_every_rank_of_any_topology_reads_its_shard_of_any_other(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 3).map(lambda n: 4 * n), min_size=1, max_size=3), label="shape"))
    tp_dim = data.draw(st.sampled_from([None, *range(len(shape))]), label="tp_dim")
    wrote = data.draw(st.sampled_from(SIZES), label="tp"), data.draw(st.integers(1, 5), label="dp")
    reads = data.draw(st.sampled_from(SIZES), label="tp"), data.draw(st.integers(1, 5), label="dp")
    full = made_up(shape)
    with tempfile.TemporaryDirectory() as folder:
        reader = CheckpointReader(write_checkpoint(Path(folder), full, tp_dim, *wrote))
        for tp_rank in range(reads[0]):
            for dp_rank in range(reads[1]):
                cut = (tp_rank, reads[0]) if tp_dim is not None else (0, 1)
                local, offset, count = shard(full, tp_dim, cut, (dp_rank, reads[1]))
                assert torch.equal(reader.read("master", NAME, cut, offset, count), local[offset : offset + count])


def test_a_rank_reads_only_the_files_and_blocks_that_it_needs(tmp_path: Path) -> None:
    """Of four data-parallel files, the first half of the tensor needs only the first two. The others may be damaged."""
    reader = CheckpointReader(write_checkpoint(tmp_path, FULL, None, 1, 4))
    for rank in (2, 3):
        path = tmp_path / f"rank_{rank:05d}.safetensors"
        path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(reader.read("master", NAME, (0, 1), 0, 24), FULL.view(-1)[:24])
    with pytest.raises(DamagedCheckpoint, match=r"rank_00002\.safetensors: the header is not as it was written"):
        reader.read("master", NAME, (0, 1), 0, 25)


def test_a_lost_rank_file_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, FULL, 0, 2, 2)
    (tmp_path / "rank_00003.safetensors").unlink()
    with pytest.raises(DamagedCheckpoint, match=r"rank_00003\.safetensors is missing; use an older one"):
        CheckpointReader(tmp_path)


def test_a_flipped_bit_is_named_by_its_tensor(tmp_path: Path) -> None:
    reader = CheckpointReader(write_checkpoint(tmp_path, FULL, None, 1, 1))
    path = tmp_path / "rank_00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=rf"{KEY} is not as it was written \(elements from 45\)"):
        reader.verify()
    assert torch.equal(reader.read("master", NAME, (0, 1), 0, 45), FULL.view(-1)[:45])


def test_another_architecture_is_named_by_its_parameter(tmp_path: Path) -> None:
    reader = CheckpointReader(write_checkpoint(tmp_path, FULL, None, 1, 1))
    with pytest.raises(ConfigError, match=r"has no parameter layer\.bias; it is a checkpoint of another architecture"):
        reader.whole("master", "layer.bias")
    with pytest.raises(ConfigError, match=r"has no shadow of parameter layer\.weight"):
        reader.whole("shadow", NAME)


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, FULL, None, 1, 1)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(DamagedCheckpoint, match="not a complete checkpoint"):
        CheckpointReader(tmp_path)
