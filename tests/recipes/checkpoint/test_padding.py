"""Partitions with padding are saved, loaded and repartitioned bitwise: a model of odd sizes in bf16, with and without offload, after
skipped updates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import run_distributed
from tests.recipes.checkpoint.resuming import Curve, unequal
from tests.recipes.checkpoint.test_save import is_exact
from tests.recipes.checkpoint.topology import ODD, Topology, small_recipe

TWO, ONE = Topology(dp_size=2, precision="bf16"), Topology(precision="bf16", offload=True)
SKIPPED = 3


@dataclass(frozen=True)
class Written:
    """What a rank of two saved and how it continued. `whole`: its state, gathered without the checkpoint's code, as a safetensors file."""

    checkpoint: Path
    whole: Path
    is_exact: bool
    misplaced: list[str]
    curve: Curve
    end: str


@dataclass(frozen=True)
class Loaded:
    """A checkpoint loaded by another world: what differs, stale copies for the forward, Adam's step count, and the checkpoint saved
    again."""

    unequal: list[str]
    stale: list[str]
    optimizer_steps: set[float]
    again: Path
    curve: Curve
    end: str


def misplaced(run: Any, whole: dict[str, Any]) -> list[str]:
    """Return the KIND/PARAMETER whose shard is not the part of the whole tensor that its range gives."""
    import torch

    from recipes.engine import shards

    wrong, parameters = [], dict(shards.named_parameters(run.objective.student))
    for key, shard in run.local().items():
        first, count = shards.shard_range(parameters[key.partition("/")[2]])
        if count != len(shard) or not torch.equal(shard, whole[key].reshape(-1)[first : first + count]):
            wrong.append(key)
    return wrong


def write_padded(prepared: Path, folder: Path) -> Written:
    """On one rank of two: train, skip updates, save, continue."""
    from safetensors.torch import save_file

    from tests.recipes.checkpoint.live_run import LiveRun

    run = LiveRun(small_recipe("text", *ODD), TWO, prepared, folder / "two")
    run.train(2)
    run.skip(SKIPPED)
    checkpoint, whole, path = run.save(), run.whole(), folder / "whole"
    if run.world.rank == 0:
        save_file({name: tensor.contiguous() for name, tensor in whole.items()}, path)
    return Written(checkpoint, path, is_exact(checkpoint, whole), misplaced(run, whole), run.train(2), run.digest())


def load_padded(prepared: Path, run_dir: Path, topology: Topology, checkpoint: Path, whole: Path) -> Loaded:
    """On one rank of another world, whose objective is not fresh: load, save again, continue."""
    from tests.recipes.checkpoint.live_run import LiveRun

    run = LiveRun(small_recipe("text", *ODD), topology, prepared, run_dir)
    run.train(1)
    run.load(checkpoint)
    differing, stale, steps = unequal(run.whole(), whole), run.stale(), run.optimizer_steps()
    return Loaded(differing, stale, steps, run.save(), run.train(2), run.digest())


@pytest.fixture(scope="module")
def written(small_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Written]:
    """What both ranks saved."""
    return run_distributed(write_padded, 2, small_prepared, tmp_path_factory.mktemp("padded"))


@pytest.fixture(scope="module")
def on_one(written: list[Written], small_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """That checkpoint, loaded by one rank."""
    args = tmp_path_factory.mktemp("padded") / "one", ONE, written[0].checkpoint, written[0].whole
    return run_distributed(load_padded, 1, small_prepared, *args, timeout=250)[0]


def test_every_shard_is_the_part_of_the_whole_tensor_that_its_range_gives(written: list[Written]) -> None:
    assert [rank.misplaced for rank in written] == [[], []]


def test_padded_partitions_are_saved_bit_for_bit(written: list[Written]) -> None:
    assert all(rank.is_exact for rank in written)


def test_padded_partitions_of_two_ranks_are_loaded_and_used_by_one_rank(on_one: Loaded) -> None:
    """In bf16 the forwards gather rounded copies; Adam counts updates, not batches."""
    assert (on_one.unequal, on_one.stale, on_one.optimizer_steps) == ([], [], {2.0})


def test_a_checkpoint_of_one_rank_is_loaded_by_two_which_continue_bitwise_as_before(
    written: list[Written], on_one: Loaded, small_prepared: Path, tmp_path: Path
) -> None:
    args = tmp_path / "two", TWO, on_one.again, written[0].whole
    for rank, before in zip(run_distributed(load_padded, 2, small_prepared, *args, timeout=250), written, strict=True):
        assert (rank.unequal, rank.stale, rank.optimizer_steps) == ([], [], {2.0})
        assert (rank.curve, rank.end) == (before.curve, before.end)
