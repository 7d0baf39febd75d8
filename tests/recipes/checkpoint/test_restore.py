"""Loading into a live run: any topology, exactly; and what a damaged or foreign checkpoint does. Full counts: tests/soak/."""

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
def test_a_checkpoint_of_either_topology_continues_on_both(topologies: list[Topology], tmp_path: Path) -> None:
    pairs = list(run_group("text", topologies, tmp_path))
    assert len([pair for pair in pairs if pair.source != COPIES]) == 4 and len(pairs) == 6
    for pair in pairs:
        assert pair.exact and not pair.problems, pair.line()


def test_30_random_damages_are_each_noticed_and_the_older_checkpoint_restored(small_prepared: Path, tmp_path: Path) -> None:
    cases = run_cases(30, 1000, tmp_path, small_prepared)
    assert {case.kind for case in cases} == set(DAMAGES)
    assert not [case for case in cases if not case.is_detected]


def write_other(prepared: Path, run_dir: Path) -> None:
    """A checkpoint of a model whose inner width is another."""
    from tests.recipes.checkpoint.live_run import LiveRun

    LiveRun(small_recipe("text", "model.ffn_hidden_size=32"), Topology(), prepared, run_dir).save()


def look_on_rank_0_alone(rank: int) -> None:
    """From now on another rank that looks for checkpoints itself fails: on a shared disk it may see others."""
    from recipes.checkpoint import restore

    def refuse(run_dir: Path) -> list[Path]:
        raise AssertionError(f"rank {rank} looks for checkpoints itself")

    restore.candidates = refuse if rank else restore.candidates


def load_another(run: Any, run_dir: Path) -> tuple[str, bool]:
    """What load_newest says of a run dir whose newest checkpoint is of another architecture, and whether it takes that for damage."""
    from recipes.checkpoint.restore import load_newest

    told: list[Path] = []
    try:
        load_newest(run_dir, run.objective, run.world, lambda folder, reason: told.append(folder))
    except ConfigError as error:
        return str(error), isinstance(error, DamagedCheckpoint) or bool(told)
    return "loaded", False


def load_from_a_failing_disk(run: Any, newer: Path) -> tuple[int, list[tuple[str, str]]]:
    """Rank 1 cannot read the newer checkpoint: the step that is loaded instead, and what is said."""
    from recipes.checkpoint import load

    told: list[tuple[str, str]] = []
    whole = load.TensorFile

    def failing(path: Path, header_sha256: str) -> Any:
        if path.parent == newer:
            raise OSError(5, "Input/output error", str(path))
        return whole(path, header_sha256)

    load.TensorFile = failing if run.world.rank else whole
    manifest = run.load_newest(told)
    load.TensorFile = whole
    return manifest.counters.step, told


def watch_the_load(run: Any, told: list[tuple[str, str]]) -> dict[str, Any]:
    """Load the newest: its step, whether the ranks agree in the control group, and how often the watch is told of how many parameters."""
    from recipes.engine.shards import named_parameters
    from tests.recipes.checkpoint.messages import groups_in_use

    alive: list[None] = []
    with groups_in_use() as groups:
        step = run.load_newest(told, lambda: alive.append(None)).counters.step
    counts = len(alive), len(dict(named_parameters(run.objective.student)))
    return {"step": step, "groups": groups == {run.world.control}, "alive": counts}


def damage(run: Any, folder: Path) -> None:
    """One bit of the last value of all that rank 1 wrote."""
    if run.world.rank == 0:
        path = folder / "rank_00001.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    run.world.gather(None)


def fall_back(prepared: Path, run_dir: Path, other: Path, zero: dict[str, Any]) -> dict[str, Any]:
    """One rank of two (DP 2): two checkpoints, of which one after the other is damaged where rank 1 alone reads."""
    from recipes.checkpoint.restore import load_checkpoint
    from tests.recipes.checkpoint.live_run import LiveRun

    run, found = LiveRun(small_recipe("text"), Topology(dp_size=2), prepared, run_dir, zero), {}
    look_on_rank_0_alone(run.world.rank)
    told: list[tuple[str, str]] = []
    found["nothing"] = run.load_newest(told), list(told)
    run.train(2)
    older, first = run.save(), run.digest()
    curve = run.train(2)
    newer, second = run.save(), run.digest()

    def scramble() -> None:
        for shard in run.local().values():
            shard.fill_(7.0)

    scramble()
    found |= watch_the_load(run, told)
    found["newest"] = found["step"], run.digest() == second, list(told)
    found["other"] = *load_another(run, other.parents[1]), run.digest() == second
    found["disk"] = *load_from_a_failing_disk(run, newer), run.digest() == first

    damage(run, newer)
    scramble()
    try:
        load_checkpoint(newer, run.objective)
        found["alone"] = "nothing noticed"
    except DamagedCheckpoint as error:
        found["alone"] = str(error)
    found["written"] = [name for name, shard in run.local().items() if not bool((shard == 7.0).all())], len(run.local())
    found["fallback"] = run.load_newest(told).counters.step, run.digest() == first, list(told)
    found["computed"] = run.stale(), run.optimizer_steps(), run.train(2) == curve
    damage(run, older)
    try:
        run.load_newest(told)
    except ConfigError as error:
        found["none"] = str(error)
    found["told"] = list(told)
    return found


@pytest.fixture(scope="module")
def other(small_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of another architecture."""
    run_dir = tmp_path_factory.mktemp("other")
    run_distributed(write_other, 1, small_prepared, run_dir)
    return step_folder(run_dir, 0)


@pytest.fixture(scope="module", params=[{}, {"stage3_param_persistence_threshold": 0}], ids=["persistent", "partitioned"])
def ranks(request: pytest.FixtureRequest, small_prepared: Path, other: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What both ranks saw; weights that stay gathered (all, at this size) or none."""
    return run_distributed(fall_back, 2, small_prepared, tmp_path_factory.mktemp("run"), other, request.param, timeout=200)


def test_without_a_checkpoint_nothing_is_loaded(ranks: list[dict[str, Any]]) -> None:
    assert all(found["nothing"] == (None, []) for found in ranks)


def test_the_newest_is_loaded_exactly(ranks: list[dict[str, Any]]) -> None:
    assert all(found["newest"] == (4, True, []) for found in ranks)


def test_the_watch_is_told_of_every_parameter(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        calls, parameters = found["alive"]
        assert calls == parameters > 20


def test_the_ranks_agree_in_the_group_that_may_wait_long(ranks: list[dict[str, Any]]) -> None:
    assert all(found["groups"] for found in ranks)


def test_a_disk_that_one_rank_cannot_read_sends_all_back_to_the_older_one(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        step, ((name, reason),), exact = found["disk"]
        assert (step, name, exact) == (2, "step_00000004", True) and "Input/output error" in reason


def test_damage_that_one_rank_sees_sends_all_back_to_the_older_one(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["alone"] == "nothing noticed" and "rank_00001.safetensors" in ranks[1]["alone"]
    for found in ranks:
        written, total = found["written"]
        assert len(written) > total / 2, "most of the newer one had been loaded by then"
        step, exact, told = found["fallback"]
        assert (step, exact) == (2, True)
        ((name, reason),) = told
        assert name == "step_00000004" and "rank_00001.safetensors" in reason and "is not as it was written" in reason


def test_what_was_loaded_is_what_is_computed_with(ranks: list[dict[str, Any]]) -> None:
    """Gathered copies, optimizer step count and the updates that follow."""
    assert all(found["computed"] == ([], {2.0}, True) for found in ranks)


def test_where_none_can_be_read_the_run_ends_and_says_what_to_do(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert "none of 2 checkpoints can be read (" in found["none"] and "restore one from a copy, or remove" in found["none"]
        assert [name for name, _ in found["told"]] == ["step_00000004", "step_00000004", "step_00000002"]
        assert all(name in reason for name, reason in found["told"]), "each with its own reason"


def test_another_architecture_is_refused_by_its_first_parameter_and_nothing_is_written(ranks: list[dict[str, Any]], other: Path) -> None:
    for found in ranks:
        message, damaged, untouched = found["other"]
        assert message.startswith(f"{other}: a checkpoint of another architecture: parameter ")
        assert "parameter trunk.encoder.layers.0.ffn.fc1.weight is (32, 32) there and (64, 32) in this recipe" in message
        assert (damaged, untouched) == (False, True), "no reason to fall back"


def carry_loss_scale(prepared: Path, run_dir: Path) -> dict[str, Any]:
    """One rank in fp32 with a loss scaler of fp16 put in: saved, moved on, loaded; then from a checkpoint without one."""
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


def test_the_loss_scaler_goes_on_where_it_was(small_prepared: Path, tmp_path: Path) -> None:
    (found,) = run_distributed(carry_loss_scale, 1, small_prepared, tmp_path)
    assert found["saved"] == found["loaded"] and found["saved"]["cur_scale"] < 2**16 and found["saved"]["last_overflow_iter"] == 3
    following, again = found["curves"]
    assert following == again and len(set(following)) > 1
    assert found["plain"]["cur_scale"] == again[-1], "a checkpoint of another precision leaves the scaler as it is"
