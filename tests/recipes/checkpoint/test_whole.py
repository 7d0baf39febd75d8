"""A checkpoint of whole tensors on one process is complete, verified, and read by any number of tensor-parallel ranks."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recipes.checkpoint.layout import Counters, candidates, newest
from recipes.checkpoint.load import CheckpointReader
from recipes.checkpoint.tensor_file import HASHED_ELEMENTS
from recipes.checkpoint.whole import entry_of, write_whole


def parameter(shape: tuple[int, ...], split: int | None = None) -> nn.Parameter:
    made: Any = nn.Parameter(torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape))
    if split is not None:
        made.tensor_model_parallel, made.partition_dim = True, split
    return made


def write(run_dir: Path, parameters: dict[str, nn.Parameter]) -> CheckpointReader:
    values = {
        "master": {name: partial(one.detach().clone) for name, one in parameters.items()},
        "exp_avg": {"a": partial(torch.ones, 6, 4)},
    }
    return CheckpointReader(
        write_whole(run_dir, {name: entry_of(one) for name, one in parameters.items()}, values, {"recipe": {"name": "text_tiny"}})
    )


def test_every_kind_is_written_whole_with_hashes_and_counters_at_zero(tmp_path: Path) -> None:
    parameters = {"a": parameter((6, 4), 0), "b": parameter((4, 8), 1), "c": parameter((5,))}
    reader = write(tmp_path, parameters)
    assert reader.verify() == 4 and reader.counters == Counters()
    assert reader.names("master") == ["a", "b", "c"] and reader.names("exp_avg") == ["a"]
    for name, one in parameters.items():
        assert torch.equal(reader.whole("master", name), one)
    assert torch.equal(reader.whole("exp_avg", "a"), torch.ones(6, 4))
    assert newest(tmp_path) == reader.folder == candidates(tmp_path)[0]
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_00000000\n"
    assert reader.manifest.metadata == {"recipe": {"name": "text_tiny"}}


@pytest.mark.parametrize("tp_size", [1, 2])
def test_tensor_parallel_ranks_read_their_slices(tp_size: int, tmp_path: Path) -> None:
    parameters = {"a": parameter((6, 4), 0), "b": parameter((4, 8), 1)}
    reader = write(tmp_path, parameters)
    for name, one in parameters.items():
        for rank, part in enumerate(one.chunk(tp_size, dim=reader.entry(name).tp_dim)):
            assert torch.equal(reader.read("master", name, (rank, tp_size), 0, part.numel()), part.reshape(-1))


def test_a_tensor_longer_than_a_hashed_block_can_be_read_in_its_middle(tmp_path: Path) -> None:
    reader = write(tmp_path, {"a": parameter((6, 4)), "long": parameter((HASHED_ELEMENTS + 10,))})
    assert reader.read("master", "long", (0, 1), HASHED_ELEMENTS - 2, 4).tolist() == [HASHED_ELEMENTS + i for i in (-2, -1, 0, 1)]


def test_one_tensor_at_a_time_is_asked_for(tmp_path: Path) -> None:
    calls = []

    def value(name: str) -> Tensor:
        calls.append(name)
        return torch.zeros(3)

    names = ("a", "b")
    write_whole(
        tmp_path, {name: entry_of(parameter((3,))) for name in names}, {"master": {name: partial(value, name) for name in names}}, {}
    )
    assert calls == ["a", "b", "a", "b"], "first for the hashes, then for the file"
