"""Checkpoints of a run whose parameters have different rates and decay: the same bits when resumed, and any number of ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import run_distributed
from tests.recipes.checkpoint.topology import Topology, small_recipe

SETTINGS = ("optim.layer_decay=0.5", "optim.head_lr_scale=3", "optim.decay_norms_and_biases=false", "optim.weight_decay=0.1")
NUM_GROUPS = 2 * (2 + 2) + 1
"""Front-end, two blocks and head, with and without weight decay, and the table of relative positions that all blocks share."""


def write_and_continue(topology: Topology, prepared: Path, folder: Path) -> dict[str, Any]:
    """Train two updates, save, and train two more. Return the checkpoint, and the state after each part."""
    from tests.recipes.checkpoint.live_run import LiveRun

    run = LiveRun(small_recipe("text", *SETTINGS), topology, prepared, folder / topology.name)
    run.train(2)
    checkpoint, saved = run.save(), run.whole()
    curve = run.train(2)
    groups = run.objective.student.optimizer.param_groups
    return {
        "checkpoint": checkpoint,
        "saved": saved,
        "curve": curve,
        "end": run.whole(),
        "digest": run.digest(),
        "scales": sorted(group["lr_scale"] for group in groups),
    }


def load_and_continue(topology: Topology, prepared: Path, folder: Path, checkpoint: Path) -> dict[str, Any]:
    """Load a checkpoint into a run that has done an update, and train two more. Return the state after each part."""
    from tests.recipes.checkpoint.live_run import LiveRun

    run = LiveRun(small_recipe("text", *SETTINGS), topology, prepared, folder / "again" / topology.name)
    run.train(1)
    run.load(checkpoint)
    loaded, steps = run.whole(), run.optimizer_steps()
    curve = run.train(2)
    return {"loaded": loaded, "steps": steps, "curve": curve, "end": run.whole(), "digest": run.digest()}


@pytest.mark.slow
@pytest.mark.parametrize("source", [Topology(dp_size=2), Topology(offload=True)], ids=lambda one: one.name)
def test_a_run_with_layer_wise_rates_resumes_with_the_same_bits_and_on_other_ranks_to_1e_5(
    source: Topology, small_prepared: Path, tmp_path: Path
) -> None:
    first = run_distributed(write_and_continue, source.world_size, source, small_prepared, tmp_path, timeout=200)[0]
    assert len(first["scales"]) == NUM_GROUPS and set(first["scales"]) == {0.125, 0.25, 0.5, 1.0, 3.0}
    for target in (source, Topology(), Topology(tp_size=2)):
        args = (target, small_prepared, tmp_path, first["checkpoint"])
        again = run_distributed(load_and_continue, target.world_size, *args, timeout=200)[0]
        assert first["saved"].keys() == again["loaded"].keys() and again["steps"] == {2.0}
        assert [name for name, one in first["saved"].items() if not torch.equal(again["loaded"][name], one)] == []
        if target == source:
            assert (again["digest"], again["curve"]) == (first["digest"], first["curve"])
            continue
        for ours, theirs in zip(again["curve"], first["curve"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
        for name, one in first["end"].items():
            assert torch.allclose(again["end"][name], one, rtol=1e-4, atol=1e-5), name
