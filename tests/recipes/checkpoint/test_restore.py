"""Loading into a live run: exact for any topology; damaged checkpoints and other architectures. The full counts are in tests/soak/."""

from pathlib import Path
from typing import Any

import pytest

from recipes.checkpoint.layout import step_folder
from recipes.errors import ConfigError, DamagedCheckpoint
from tests.distributed import run_distributed
from tests.recipes.checkpoint.damage import DAMAGES
from tests.recipes.checkpoint.topology import Topology, small_recipe
from tests.soak.corruption import run_cases
from tests.soak.matrix import COPIES, run_group


@pytest.mark.parametrize(
    "topologies",
    [
        pytest.param([Topology(2, 1), Topology(1, 1)], marks=pytest.mark.slow),
        pytest.param([Topology(2, 2), Topology(1, 2)], marks=pytest.mark.slow),
        pytest.param([Topology(1, 1, "bf16"), Topology(2, 2, "bf16")], marks=pytest.mark.slow),
        pytest.param([Topology(1, 2, offload=True), Topology(2, 1, "bf16", offload=True)], marks=pytest.mark.slow),
    ],
    ids=["fp32", "fp32_dp", "bf16", "offload"],
)
def test_a_checkpoint_of_each_topology_continues_on_both(topologies: list[Topology], tmp_path: Path) -> None:
    pairs = list(run_group("text", topologies, tmp_path))
    assert len([pair for pair in pairs if pair.source != COPIES]) == 4 and len(pairs) == 6
    for pair in pairs:
        assert pair.exact and not pair.problems, pair.line()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpoints_of_several_copies_of_the_model_continue_on_every_topology_and_theirs_on_these(precision: str, tmp_path: Path) -> None:
    nodes = Topology(1, 4, num_replicas=2, gathers_once=True, has_leaf_modules=True)
    topologies = [one.but(precision=precision) for one in (nodes, Topology(2, 2), Topology(1, 1), Topology(1, 4))]
    pairs = list(run_group("text", topologies, tmp_path))
    assert len(pairs) == 4 * (4 + 1)
    for pair in pairs:
        assert pair.exact and not pair.problems, pair.line()


def test_each_of_30_random_damages_is_detected_and_the_older_checkpoint_loaded(small_prepared: Path, tmp_path: Path) -> None:
    cases = run_cases(30, 1000, tmp_path, small_prepared)
    assert {case.kind for case in cases} == set(DAMAGES)
    assert not [case for case in cases if not case.is_detected]


def write_other(prepared: Path, run_dir: Path) -> None:
    """Write a checkpoint of a model with another inner width."""
    from tests.recipes.checkpoint.live_run import LiveRun

    LiveRun(small_recipe("text", "model.ffn_hidden_size=32"), Topology(), prepared, run_dir).save()


def forbid_listing_on_other_ranks(rank: int) -> None:
    """From now on a rank other than 0 fails if it lists checkpoints or checks all their files itself. On a shared disk it might see other
    ones than rank 0, and every rank would ask for the files of all ranks."""
    from recipes.checkpoint import load, restore

    def refuse(*args: Any) -> Any:
        raise AssertionError(f"rank {rank} lists checkpoints or files itself")

    if rank:
        restore.candidates = restore.check_files = load.check_files = refuse


def load_another(run: Any, run_dir: Path) -> tuple[str, bool]:
    """Return the error of load_newest in a run dir whose newest checkpoint has another architecture, and whether it counts as damage."""
    from recipes.checkpoint.restore import load_newest

    reported: list[Path] = []
    try:
        load_newest(run_dir, run.objective, run.world, lambda folder, reason: reported.append(folder))
    except ConfigError as error:
        return str(error), isinstance(error, DamagedCheckpoint) or bool(reported)
    return "loaded", False


def load_from_a_failing_disk(run: Any, newer: Path) -> tuple[int, list[tuple[str, str]]]:
    """Rank 1 cannot read the newer checkpoint. Return the step that is loaded instead, and the report."""
    from recipes.checkpoint import load

    reported: list[tuple[str, str]] = []
    original = load.TensorFile

    def failing(path: Path, header_sha256: str) -> Any:
        if path.parent == newer:
            raise OSError(5, "Input/output error", str(path))
        return original(path, header_sha256)

    load.TensorFile = failing if run.world.rank else original
    manifest = run.load_newest(reported)
    load.TensorFile = original
    return manifest.counters.step, reported


def watch_the_load(run: Any, reported: list[tuple[str, str]]) -> dict[str, Any]:
    """Load the newest checkpoint. Return its step, whether the ranks used the control group, and the number of heartbeats and of the
    tensors that this rank holds."""
    from tests.recipes.checkpoint.messages import groups_in_use

    heartbeats: list[None] = []
    with groups_in_use() as groups:
        step = run.load_newest(reported, lambda: heartbeats.append(None)).counters.step
    counts = len(heartbeats), sum(shard.numel() > 0 for shard in run.local().values())
    return {"step": step, "groups": groups == {run.world.control}, "heartbeats": counts}


def damage(run: Any, folder: Path) -> None:
    """Flip one bit of the last value in rank 1's file."""
    if run.world.rank == 0:
        path = folder / "rank_00001.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    run.world.gather(None)


def fall_back(prepared: Path, run_dir: Path, other: Path, zero: dict[str, Any]) -> dict[str, Any]:
    """On one rank of two (DP 2): write two checkpoints, and damage one after the other in a place that only rank 1 reads."""
    from recipes.checkpoint.restore import load_checkpoint
    from tests.recipes.checkpoint.live_run import LiveRun

    run, found = LiveRun(small_recipe("text"), Topology(dp_size=2), prepared, run_dir, zero), {}
    forbid_listing_on_other_ranks(run.world.rank)
    reported: list[tuple[str, str]] = []
    found["nothing"] = run.load_newest(reported), list(reported)
    run.train(2)
    older, first = run.save(), run.digest()
    curve = run.train(2)
    newer, second = run.save(), run.digest()

    def scramble() -> None:
        for shard in run.local().values():
            shard.fill_(7.0)

    scramble()
    found |= watch_the_load(run, reported)
    found["newest"] = found["step"], run.digest() == second, list(reported)
    found["other"] = *load_another(run, other.parents[1]), run.digest() == second
    found["disk"] = *load_from_a_failing_disk(run, newer), run.digest() == first

    damage(run, newer)
    scramble()
    try:
        load_checkpoint(newer, run.objective)
        found["alone"] = "no damage"
    except DamagedCheckpoint as error:
        found["alone"] = str(error)
    found["written"] = [name for name, shard in run.local().items() if not bool((shard == 7.0).all())], len(run.local())
    found["fallback"] = run.load_newest(reported).counters.step, run.digest() == first, list(reported)
    found["computed"] = run.stale(), run.optimizer_steps(), run.train(2) == curve
    damage(run, older)
    try:
        run.load_newest(reported)
    except ConfigError as error:
        found["none"] = str(error)
    found["reported"] = list(reported)
    return found


@pytest.fixture(scope="module")
def other(small_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of another architecture."""
    run_dir = tmp_path_factory.mktemp("other")
    run_distributed(write_other, 1, small_prepared, run_dir)
    return step_folder(run_dir, 0)


@pytest.fixture(scope="module", params=[{}, {"stage3_param_persistence_threshold": 0}], ids=["persistent", "partitioned"])
def ranks(request: pytest.FixtureRequest, small_prepared: Path, other: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The results of both ranks, with persistent parameters (all, at this size) or without."""
    return run_distributed(fall_back, 2, small_prepared, tmp_path_factory.mktemp("run"), other, request.param, timeout=200)


def test_without_a_checkpoint_nothing_is_loaded(ranks: list[dict[str, Any]]) -> None:
    assert all(found["nothing"] == (None, []) for found in ranks)


def test_the_newest_is_loaded_exactly(ranks: list[dict[str, Any]]) -> None:
    assert all(found["newest"] == (4, True, []) for found in ranks)


def test_there_is_a_heartbeat_for_every_tensor(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        calls, tensors = found["heartbeats"]
        assert calls == tensors > 80


def test_the_ranks_use_the_control_group_with_the_long_timeout(ranks: list[dict[str, Any]]) -> None:
    assert all(found["groups"] for found in ranks)


def test_if_one_rank_cannot_read_a_checkpoint_all_ranks_load_the_older_one(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        step, ((name, reason),), exact = found["disk"]
        assert (step, name, exact) == (2, "step_00000004", True) and "Input/output error" in reason


def test_if_one_rank_finds_damage_all_ranks_load_the_older_checkpoint(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["alone"] == "no damage" and "rank_00001.safetensors" in ranks[1]["alone"]
    for found in ranks:
        written, total = found["written"]
        assert len(written) > total / 2, "most of the newer checkpoint was loaded before the damage was found"
        step, exact, reported = found["fallback"]
        assert (step, exact) == (2, True)
        ((name, reason),) = reported
        assert name == "step_00000004" and "rank_00001.safetensors" in reason and "is not as it was written" in reason


def test_the_run_computes_with_the_loaded_state(ranks: list[dict[str, Any]]) -> None:
    """Gathered copies, optimizer step count and the updates that follow."""
    assert all(found["computed"] == ([], {2.0}, True) for found in ranks)


def test_if_no_checkpoint_can_be_read_the_run_ends_with_a_remedy(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert "none of 2 checkpoints can be read (" in found["none"] and "restore one from a copy, or remove" in found["none"]
        assert [name for name, _ in found["reported"]] == ["step_00000004", "step_00000004", "step_00000002"]
        assert all(name in reason for name, reason in found["reported"]), "each checkpoint with its own reason"


def test_the_error_of_another_architecture_names_its_first_parameter_and_no_shard_is_written(
    ranks: list[dict[str, Any]], other: Path
) -> None:
    for found in ranks:
        message, damaged, untouched = found["other"]
        assert message.startswith(f"{other}: a checkpoint of another architecture: parameter ")
        assert "parameter trunk.encoder.layers.0.ffn.fc1.weight is (32, 32) in the checkpoint and (64, 32) in this recipe" in message
        assert (damaged, untouched) == (False, True), "it does not count as damage"


def carry_loss_scale(prepared: Path, run_dir: Path) -> dict[str, Any]:
    """On one rank in fp32 with fp16's loss scaler: save, continue, load; then load a checkpoint without a loss scaler."""
    import torch
    from deepspeed.runtime.fp16.loss_scaler import CreateLossScaler

    from recipes.engine import shards
    from tests.recipes.checkpoint.live_run import LiveRun

    run = LiveRun(small_recipe("text"), Topology(), prepared, run_dir)
    plain = run.save(run_dir / "plain")
    optimizer = run.objective.student.optimizer
    numbers = {"init_scale": 2**16, "scale_window": 3, "min_scale": 1, "delayed_shift": 2, "consecutive_hysteresis": False}
    optimizer.loss_scaler = CreateLossScaler(torch.half, static_loss_scale=0, dynamic_scaling=True, dynamic_loss_args=numbers)
    history = (False, False, True, True, False, False)
    for overflow in history:
        optimizer.loss_scaler.update_scale(overflow)
    saved, folder = shards.loss_scaler_state(run.objective.student), run.save()
    following = [optimizer.loss_scaler.update_scale(overflow) or optimizer.loss_scaler.cur_scale for overflow in history]
    run.load(folder)
    loaded = shards.loss_scaler_state(run.objective.student)
    again = [optimizer.loss_scaler.update_scale(overflow) or optimizer.loss_scaler.cur_scale for overflow in history]
    run.load(plain)
    return {"saved": saved, "loaded": loaded, "curves": (following, again), "plain": shards.loss_scaler_state(run.objective.student)}


def test_the_loss_scaler_continues_from_its_saved_state(small_prepared: Path, tmp_path: Path) -> None:
    (found,) = run_distributed(carry_loss_scale, 1, small_prepared, tmp_path)
    assert found["saved"] == found["loaded"] and found["saved"]["cur_scale"] < 2**16 and found["saved"]["last_overflow_iter"] == 3
    following, again = found["curves"]
    assert following == again and len(set(following)) > 1
    assert found["plain"]["cur_scale"] == again[-1], "a checkpoint of another precision does not change the scaler"
