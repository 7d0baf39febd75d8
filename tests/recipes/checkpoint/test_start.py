"""The weights of another run in a new one: the same loss as in one process, for topologies, precisions, offload and each modality."""

from pathlib import Path
from typing import Any

import pytest

from recipes.start_config import StartConfig
from tests.distributed import run_distributed
from tests.recipes.checkpoint.topology import Topology, prepare_small, small_recipe

STUDENT, STORED = StartConfig("x"), StartConfig("x", teacher="stored")
SETTINGS = ("teacher.ema_decay=0.5", "teacher.ema_end_decay=0.5", "optim.warmup_steps=1", "optim.lr=0.01")
"""Rates with which student and teacher have clearly different weights after a few updates."""


def write_source(modality: str, topology: Topology, prepared: Path, folder: Path) -> Path:
    """Train a few updates with one or more ranks, and save. Return the checkpoint's folder."""
    from tests.recipes.checkpoint.live_run import LiveRun

    run = LiveRun(small_recipe(modality, *SETTINGS), topology, prepared, folder)
    run.train(4)
    return run.save()


def expected(modality: str, checkpoint: Path, prepared: Path, folder: Path) -> dict[str, Any]:
    """Return the first loss with the checkpoint's weights in one process, read as a resumed run reads them, with the first samples."""
    from recipes.checkpoint.layout import Counters
    from tests.recipes.checkpoint.live_run import LiveRun

    found = {}
    run = LiveRun(small_recipe(modality, *SETTINGS), Topology(), prepared, folder)
    found["random"] = run.train(1)[0][0]
    for start in (STORED, STUDENT):
        run.load(checkpoint)
        run.state.counters = Counters()
        if start is STUDENT:
            run.objective.restart()
        found[start.teacher] = run.train(1)[0][0]
    return found


def begin(modality: str, topology: Topology, checkpoint: Path, prepared: Path, folder: Path) -> dict[str, Any]:
    """Begin new runs with the checkpoint's weights. Return the first losses, and what else must hold at the start."""
    from recipes.checkpoint.restore import load_weights
    from tests.recipes.checkpoint.live_run import LiveRun

    found: dict[str, Any] = {}
    for start in (STUDENT, STORED):
        run, beats = LiveRun(small_recipe(modality, *SETTINGS), topology, prepared, folder / start.teacher), list[None]()
        load_weights(checkpoint, run.objective, start, run.world, alive=lambda beats=beats: beats.append(None))
        whole = run.whole()
        follows = [name for name in whole if name.startswith("shadow/")]
        is_equal = [bool((whole[name] == whole[name.replace("shadow/", "master/")]).all()) for name in follows]
        moments = sum(float(tensor.abs().sum()) for name, tensor in whole.items() if name.startswith("exp_avg"))
        found[start.teacher] = {"equal": all(is_equal), "moments": moments, "stale": run.stale(), "beats": len(beats) > 10}
        found[start.teacher]["steps"] = run.optimizer_steps()
        found[start.teacher]["loss"] = run.train(1)[0][0]
    return found


def check(modality: str, source: Topology, targets: list[Topology], prepared: Path, tmp_path: Path) -> None:
    """Write a checkpoint on `source`, begin runs from it on each of `targets`, and compare their first losses with one process."""
    checkpoint = run_distributed(write_source, source.world_size, modality, source, prepared, tmp_path / "source")[0]
    there = run_distributed(expected, 1, modality, checkpoint, prepared, tmp_path / "one")[0]
    assert len({round(loss, 3) for loss in there.values()}) == 3, there
    for target in targets:
        tolerance = 2e-2 if target.precision == "bf16" else 1e-5
        args = (modality, target, checkpoint, prepared, tmp_path / target.name)
        for found in run_distributed(begin, target.world_size, *args):
            for teacher, seen in found.items():
                difference = abs(seen.pop("loss") / there[teacher] - 1)
                print(f"{modality} {source.name} -> {target.name}, {teacher}: relative difference of the first loss {difference:.1e}")
                assert difference <= tolerance, (target.name, teacher, difference)
                assert seen == {"equal": teacher == "student", "moments": 0, "stale": [], "beats": True, "steps": {0.0}}


@pytest.mark.slow
def test_text_begins_on_dp_2_and_on_tp_2_with_the_loss_of_one_process_within_1e_5(small_prepared: Path, tmp_path: Path) -> None:
    check("text", Topology(), [Topology(1, 2), Topology(2, 1), Topology(precision="bf16")], small_prepared, tmp_path)


@pytest.mark.slow
def test_the_float32_weights_of_a_bf16_run_are_taken(small_prepared: Path, tmp_path: Path) -> None:
    check("text", Topology(2, 1, "bf16"), [Topology(1, 2)], small_prepared, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["speech", "vision"])
def test_speech_and_vision_begin_on_tp_2_with_the_loss_of_one_process_within_1e_5(modality: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    check(modality, Topology(), [Topology(2, 1)], prepare_small(modality, tmp_path / "data"), tmp_path)


@pytest.mark.slow
def test_with_the_optimizer_offloaded_the_loss_is_that_of_one_process_within_1e_5(small_prepared: Path, tmp_path: Path) -> None:
    check("text", Topology(), [Topology(offload=True), Topology(1, 2, offload=True)], small_prepared, tmp_path)


@pytest.mark.slow
def test_bf16_with_offload_begins_close_to_the_loss_in_float32(small_prepared: Path, tmp_path: Path) -> None:
    check("text", Topology(1, 2), [Topology(1, 2, "bf16", offload=True), Topology(2, 2)], small_prepared, tmp_path)


def refuse(checkpoint: Path, prepared: Path, folder: Path) -> dict[str, Any]:
    """Return the errors of checkpoints that cannot be used, and whether this rank's weights changed before the error."""
    import shutil

    from recipes.checkpoint.restore import load_weights
    from recipes.errors import ConfigError
    from tests.recipes.checkpoint.live_run import LiveRun

    found: dict[str, Any] = {}
    run = LiveRun(small_recipe("text", *SETTINGS), Topology(1, 2), prepared, folder)
    other = LiveRun(small_recipe("text", *SETTINGS, "model.ffn_hidden_size=32"), Topology(1, 2), prepared, folder / "other").save()
    damaged = folder / "damaged" / checkpoint.name
    if run.world.rank == 0:
        shutil.copytree(checkpoint, damaged)
        content = (damaged / "rank_00000.safetensors").read_bytes()
        (damaged / "rank_00000.safetensors").write_bytes(content.replace(b'"shadow/', b'"shadxw/'))
    run.world.gather(None)
    before = run.digest()
    for name, path in (("other", other), ("damaged", damaged), ("gone", folder / "gone")):
        try:
            load_weights(path, run.objective, STORED, run.world)
            found[name] = "loaded"
        except ConfigError as error:
            found[name] = str(error)
    run.objective.shards = lambda: {"average": run.objective.shadow.shadows}
    try:
        load_weights(checkpoint, run.objective, STORED, run.world)
    except ConfigError as error:
        found["kind"] = str(error)
    del run.objective.shards
    return found | {"unchanged": run.digest() == before}


def test_weights_of_another_shape_and_missing_files_are_one_line_on_all_ranks_and_change_nothing(
    small_prepared: Path, tmp_path: Path
) -> None:
    checkpoint = run_distributed(write_source, 1, "text", Topology(), small_prepared, tmp_path / "source")[0]
    first, second = run_distributed(refuse, 2, checkpoint, small_prepared, tmp_path / "new")
    assert first == second and first["unchanged"]
    assert "parameter trunk.encoder.layers.0.ffn.fc1.weight is (32, 32) in the checkpoint and (64, 32) in this recipe" in first["other"]
    assert first["other"].endswith("use its recipe or name another run in start.start_from")
    assert first["gone"].startswith("start.start_from ") and first["gone"].endswith("name another run in start.start_from")
    assert first["damaged"].startswith("start.start_from ") and "rank_00000.safetensors" in first["damaged"], first["damaged"]
    assert first["kind"].startswith(f"{checkpoint}: has no tensors of the kind average, of ")
    assert first["kind"].endswith("; --set start.teacher=student does without")
