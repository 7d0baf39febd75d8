"""Tensors put together from made-up pieces of several ranks. Loading into a live run is tested in test_restore.py."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.checkpoint import layout, tensor_file
from recipes.checkpoint.layout import Counters
from recipes.checkpoint.load import CheckpointReader, Wanted
from recipes.errors import ConfigError, DamagedCheckpoint
from tests.recipes.checkpoint import pieces
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


RANKS = 32


@pytest.mark.parametrize("readers", [1, 4, 32, 256])
def test_of_32_files_a_rank_opens_those_with_its_own_elements_once_and_asks_for_no_other(
    readers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 elements of each of two kinds, 8 in each file."""
    full, kinds = made_up((256,)), ("master", "exp_avg")
    write_checkpoint(tmp_path, full, None, 1, RANKS, kinds)
    touched = list[str]()
    for name in ("open", "stat", "exists"):
        original = getattr(Path, name)
        monkeypatch.setattr(
            Path, name, lambda path, *args, original=original, **words: touched.append(path.name) or original(path, *args, **words)
        )
    count, beats = 256 // readers, list[None]()
    for rank in (0, readers - 1):
        touched.clear()
        reader = CheckpointReader(tmp_path, is_checked=True)
        parts = [Wanted(kind, NAME, (0, 1), rank * count, torch.empty(count)) for kind in kinds]
        reader.load(parts, lambda: beats.append(None))
        assert all(torch.equal(part.out, full[rank * count :][:count]) for part in parts)
        own = range(rank * count * RANKS // 256, -(-(rank + 1) * count * RANKS // 256))
        assert [name for name in touched if name.startswith("rank_")] == [f"rank_{number:05d}.safetensors" for number in own]
    assert len(beats) == 2 * len(kinds) * max(1, RANKS // readers), "a heartbeat for each range of each file"


def read_bytes(folder: Path, first: int, count: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Read a part of FULL's tensor, compare it with made-up values, and return the number of bytes that were read from files."""
    sizes, blocks = list[int](), tensor_file.TensorFile.blocks
    with monkeypatch.context() as patch:
        patch.setattr(tensor_file.TensorFile, "blocks", lambda *args: ((sizes.append(v.nbytes), (i, v))[1] for i, v in blocks(*args)))
        values = CheckpointReader(folder).read("master", NAME, (0, 1), first, count)
    assert values.tolist() == list(range(first, first + count))
    return sum(sizes)


def test_a_rank_of_512_reads_one_mebibyte_of_what_one_rank_has_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # blocks as they are written
    write_checkpoint(tmp_path, made_up((1 << 20,)), None, 1, 1)
    count = (1 << 20) // 512
    assert {read_bytes(tmp_path, rank * count, count, monkeypatch) for rank in (0, 127, 128, 511)} == {1 << 20}
    assert read_bytes(tmp_path, 0, 1 << 20, monkeypatch) == 4 << 20, "what a rank needs is read once"


def test_a_checkpoint_of_format_2_whose_hashes_cover_16_mebibytes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = 4 << 20
    monkeypatch.setattr(tensor_file, "HASHED_ELEMENTS", old)
    monkeypatch.setattr(layout, "FORMAT", 2)
    to_json = layout.range_to_json
    monkeypatch.setattr(pieces, "range_to_json", lambda place: to_json(place).replace(f', "hashed_elements": {old}', ""))
    write_checkpoint(tmp_path, made_up((old + 10,)), None, 1, 1)
    monkeypatch.undo()
    assert b"hashed_elements" not in (tmp_path / "rank_00000.safetensors").read_bytes()[:4096]
    assert read_bytes(tmp_path, old + 2, 5, monkeypatch) == 40, "the second block"
    assert read_bytes(tmp_path, old - 2, 4, monkeypatch) == (16 << 20) + 40, "both blocks"


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
