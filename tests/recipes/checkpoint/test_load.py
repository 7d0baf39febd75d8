"""Tensors put together from pieces that several ranks wrote, made up here; what the engines do with them is tested across topologies."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from recipes.checkpoint.layout import FORMAT, Counters, Range, range_to_json
from recipes.checkpoint.load import CheckpointReader
from recipes.errors import ConfigError

KEY, NAME = "master/layer.weight", "layer.weight"
FULL = torch.arange(48.0).view(6, 8)


def write_pieces(folder: Path, places: list[Range]) -> Path:
    """One rank file a place, as if that rank held nothing else."""
    for rank, place in enumerate(places):
        local = FULL if place.tp_dim is None else FULL.chunk(place.tp_size, dim=place.tp_dim)[place.tp_rank]
        piece = local.reshape(-1)[place.offset : place.offset + place.count].clone()
        save_file({KEY: piece}, folder / f"rank_{rank:05d}.safetensors", metadata={KEY: range_to_json(place)})
    state = {"format": FORMAT, "counters": {"step": 7, "update": 9, "samples": 72, "tokens": 99}}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def split(tp_dim: int | None, tp_size: int, cuts: list[int]) -> list[Range]:
    """Every tensor-parallel slice, cut at `cuts` over data-parallel ranks."""
    shape = list(FULL.shape)
    if tp_dim is not None:
        shape[tp_dim] //= tp_size
    bounds = [0, *cuts, shape[0] * shape[1]]
    return [
        Range(NAME, tuple(shape), tp_dim, tp_rank, tp_size, start, end - start)
        for start, end in pairwise(bounds)
        for tp_rank in range(tp_size)
    ]


@pytest.mark.parametrize(("tp_dim", "tp_size"), [(None, 1), (0, 2), (1, 2), (0, 3), (1, 4)])
@pytest.mark.parametrize("cuts", [[], [5], [3, 4, 11]])
def test_a_tensor_is_whole_however_it_was_cut(tp_dim: int | None, tp_size: int, cuts: list[int], tmp_path: Path) -> None:
    reader = CheckpointReader(write_pieces(tmp_path, split(tp_dim, tp_size, cuts)))
    assert torch.equal(reader.whole("master", NAME), FULL)
    assert (reader.names("master"), reader.names("exp_avg")) == ([NAME], [])
    assert reader.counters == Counters(step=7, update=9, samples=72, tokens=99)


def test_a_lost_rank_file_is_named_by_what_is_missing(tmp_path: Path) -> None:
    write_pieces(tmp_path, split(0, 2, [10]))
    (tmp_path / "rank_00003.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"master/layer\.weight has 34 of 48 values; files of some ranks are missing"):
        CheckpointReader(tmp_path).whole("master", NAME)


def test_another_architecture_is_named_by_its_parameter(tmp_path: Path) -> None:
    reader = CheckpointReader(write_pieces(tmp_path, split(None, 1, [])))
    with pytest.raises(ConfigError, match=r"has no master of parameter layer\.bias; it is a checkpoint of another architecture"):
        reader.whole("master", "layer.bias")


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    write_pieces(tmp_path, split(None, 1, []))
    (tmp_path / "state.json").unlink()
    with pytest.raises(ConfigError, match="not a complete checkpoint"):
        CheckpointReader(tmp_path)
