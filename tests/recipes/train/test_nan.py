"""A batch with a NaN anywhere leaves no trace: all later results equal, bit for bit, those of a run that never had this batch."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.cluster.command import exit_code_of
from recipes.data.order import UpdateOrder
from recipes.modalities.registry import MODALITIES
from tests.distributed import run_distributed
from tests.recipes.train.faulty import (
    BATCH,
    BF16,
    DP2,
    FAULTY_UPDATE,
    ONE,
    PARAMETERS,
    STEPS,
    TP2,
    UNDISTURBED,
    Fault,
    Topology,
    prepare_pictures,
    read,
    recipe_of,
    run_rank,
)

CURVE = ("step", "loss", "grad_norm", "target_std", "pred_std", "lr", "ema_decay")
PRECISIONS: dict[str, dict[str, Any]] = {"fp32": {}, "bf16": BF16}
TOPOLOGIES = {"one": ONE, "tp2": TP2, "dp2": DP2}
Outcomes = list[dict[str, Any]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up pictures."""
    return prepare_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def undisturbed_runs(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Outcomes]:
    """For each topology and precision, the run that leaves out the update. Each is run once."""
    known: dict[tuple[str, str], Outcomes] = {}

    def get(topology: str, precision: str) -> Outcomes:
        if (topology, precision) not in known:
            run_dir = tmp_path_factory.mktemp("never") / "run"
            known[topology, precision] = ranks(run_dir, prepared, TOPOLOGIES[topology], None, PRECISIONS[precision])
        return known[topology, precision]

    return get


def ranks(run_dir: Path, prepared: Path, topology: Topology, fault: Fault | None, *more: Any) -> Outcomes:
    """Return the result of run_rank on each rank."""
    return run_distributed(run_rank, topology.world_size, run_dir, prepared, topology, fault, *more, timeout=120)


def check_same(outcomes: Outcomes, reference: Outcomes) -> None:
    """Check that every shard on every rank and every logged number are equal."""
    for ours, theirs in zip(outcomes, reference, strict=True):
        assert ours["shards"].keys() == theirs["shards"].keys()
        different = [name for name, shard in ours["shards"].items() if not torch.equal(shard, theirs["shards"][name])]
        assert not different, different
        assert all(torch.isfinite(shard).all() for shard in ours["shards"].values())
    curves = [[{key: row[key] for key in CURVE} for row in run[0]["metrics"]] for run in (outcomes, reference)]
    assert curves[0] == curves[1]
    assert [row["step"] for row in curves[0]] == list(range(1, STEPS + 1))


def skips(outcomes: Outcomes) -> list[dict[str, Any]]:
    """Return the skip events of a run."""
    return [event for event in outcomes[0]["events"] if event["event"] == "skip"]


def check_leaves_no_trace(
    run_dir: Path, prepared: Path, undisturbed_runs: Any, topology: str, precision: str, fault: Fault
) -> dict[str, Any]:
    """Run with the fault, compare with the run that never had the batch, and return the only skip event."""
    outcomes = ranks(run_dir, prepared, TOPOLOGIES[topology], fault, PRECISIONS[precision])
    check_same(outcomes, undisturbed_runs(topology, precision))
    (skip,) = skips(outcomes)
    assert (skip["update"], skip["step"]) == (FAULTY_UPDATE, FAULTY_UPDATE)
    assert skip["reason"] == ("non-finite loss" if fault.kind in ("input", "activation") else "non-finite gradient")
    return skip


@pytest.mark.parametrize(
    ("topology", "precision", "fault"),
    [
        ("one", "fp32", Fault("input", 1)),
        ("tp2", "bf16", Fault("activation", 0, rank=1)),
        ("tp2", "fp32", Fault("split", 1, rank=1)),
        ("tp2", "fp32", Fault("replicated", 0, rank=1)),
        ("dp2", "bf16", Fault("replicated", 1, rank=1)),
    ],
    ids=lambda value: f"{value.kind}_{value.micro_batch}" if isinstance(value, Fault) else str(value),
)
def test_a_nan_leaves_no_trace(topology: str, precision: str, fault: Fault, prepared: Path, undisturbed_runs: Any, tmp_path: Path) -> None:
    check_leaves_no_trace(tmp_path / "run", prepared, undisturbed_runs, topology, precision, fault)


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("micro_batch", [0, 1])
@pytest.mark.parametrize("kind", ["input", "activation", "split", "replicated"])
def test_a_nan_of_any_kind_leaves_no_trace_on_any_topology(
    kind: Any, micro_batch: int, topology: str, precision: str, prepared: Path, undisturbed_runs: Any, tmp_path: Path
) -> None:
    rank = TOPOLOGIES[topology].world_size - 1
    check_leaves_no_trace(tmp_path / "run", prepared, undisturbed_runs, topology, precision, Fault(kind, micro_batch, rank=rank))


def test_a_nan_in_one_data_parallel_ranks_loss_names_that_rank_and_its_samples_alone(prepared: Path, tmp_path: Path) -> None:
    (skip,) = skips(ranks(tmp_path / "run", prepared, DP2, Fault("input", 1, rank=1)))
    ((rank,), samples) = skip["ranks"], skip["samples"]
    assert (rank["rank"], rank["micro_batches"]) == (1, [1])
    assert samples == samples_of(FAULTY_UPDATE, prepared)[6:8], "the second micro-batch of two samples of the second rank"
    assert 0 < skip["seconds"] < 60


def test_a_nan_in_one_tensor_parallel_ranks_gradient_names_that_rank_its_parameter_and_every_sample(prepared: Path, tmp_path: Path) -> None:
    (skip,) = skips(ranks(tmp_path / "run", prepared, TP2, Fault("replicated", 0, rank=1)))
    assert skip["ranks"] == [{"rank": 1, "micro_batches": [], "parameters": [PARAMETERS["replicated"]]}]
    assert skip["samples"] == samples_of(FAULTY_UPDATE, prepared)


def samples_of(update: int, prepared: Path) -> list[list[int]]:
    """Return [epoch, index] of every sample of an update."""
    recipe = recipe_of(prepared, {})
    dataset, _ = MODALITIES["vision"].open_data(recipe, prepared)
    order = UpdateOrder(dataset, seed=recipe.run.seed, global_batch_size=recipe.run.global_batch_size, group_size=1)
    return [[position.epoch, position.index] for position in order.positions(update)]


def end_of_a_run_that_breaks(run_dir: Path, prepared: Path, fault: Fault) -> tuple[int, str]:
    """Return exit code and stderr. The run may skip at most three updates in a row."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        code = exit_code_of(lambda: run_rank(run_dir, prepared, ONE, fault, {}, {"guard__max_skipped_in_a_row": 3})["code"])
    return code, stderr.getvalue()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(Fault("input", updates=range(2, 99)), "non-finite loss"), (Fault("split", updates=range(2, 99)), "non-finite gradient")],
    ids=["loss", "gradient"],
)
def test_three_bad_updates_in_a_row_end_the_run_with_exit_3_and_the_reason(
    fault: Fault, reason: str, prepared: Path, tmp_path: Path
) -> None:
    ((code, stderr),) = run_distributed(end_of_a_run_that_breaks, 1, tmp_path / "run", prepared, fault, timeout=120)
    assert code == 3
    assert f"3 updates in a row were skipped at step 3, the last for a {reason}" in stderr
    events = read(tmp_path / "run" / "events.jsonl")
    assert [event["update"] for event in events if event["event"] == "skip"] == [2, 3, 4]
    assert reason in next(event["message"] for event in events if event["event"] == "error")


def test_a_good_update_between_bad_ones_restarts_the_count_of_skips(prepared: Path, tmp_path: Path) -> None:
    settings = {"guard__max_skipped_in_a_row": 2}
    (outcome,) = ranks(tmp_path / "run", prepared, ONE, Fault("input", updates=range(1, 6, 2)), {}, settings)
    assert (outcome["code"], [event["update"] for event in skips([outcome])]) == (0, [1, 3, 5])


SCHEDULES = {"optim__lr": 0.04, "optim__warmup_steps": 2, "optim__schedule_steps": STEPS, "optim__schedule": "cosine"} | {
    **{"teacher__ema_decay": 0.5, "teacher__ema_end_decay": 0.9, "teacher__ema_anneal_end_step": STEPS, "model__hidden_dropout": 0},
}
RATES, DECAYS = [0.0, 0.02, 0.04, 0.02], [0.6, 0.7, 0.8, 0.9]
"""Rates: warm-up from 0 over two updates, then half a cosine to 0 at the fourth. Decays: linear from 0.5 to 0.9 at the fourth."""


@pytest.mark.parametrize("fault", [UNDISTURBED, Fault("input", 1)], ids=["undisturbed", "skipped"])
def test_rate_and_decay_follow_the_applied_updates_and_dropout_the_batches(fault: Fault, prepared: Path, tmp_path: Path) -> None:
    for outcome in ranks(tmp_path / "run", prepared, DP2, fault, {}, SCHEDULES):
        assert len(outcome["rates"][0]) == 2, "this recipe has two parameter groups"
        assert [rate for groups in outcome["rates"] for rate in groups] == pytest.approx([rate for rate in RATES for _ in range(2)])
        assert outcome["decays"] == pytest.approx(DECAYS)
        assert [row["lr"] for row in outcome["metrics"]] == pytest.approx(RATES)
        assert [row["ema_decay"] for row in outcome["metrics"]] == pytest.approx(DECAYS)
        num_batches = STEPS + len(fault.updates)
        assert outcome["draws"] == [(update, micro_batch) for update in range(num_batches) for micro_batch in range(2)]
        assert len(skips([outcome])) == len(fault.updates)


SPIKES = {"guard__spike_window": 8, "guard__spike_deviations": 20, "run__max_steps": 12, "optim__warmup_steps": 100}
SPIKE_UPDATE = 9


def spiking(action: str, run_dir: Path, prepared: Path) -> Outcomes:
    """Run with one parameter's gradient a million times too large at one update."""
    fault = Fault("split", 1, factor=1e6, updates=range(SPIKE_UPDATE, SPIKE_UPDATE + 1))
    return ranks(run_dir, prepared, ONE, fault, {}, {**SPIKES, "guard__spike": action})


def test_a_spike_is_reported_and_applied_or_skipped_as_asked(prepared: Path, tmp_path: Path) -> None:
    off, report, skip = (spiking(action, tmp_path / action, prepared) for action in ("off", "report", "skip"))
    assert not spikes(off)
    for outcomes, action in ((report, "report"), (skip, "skip")):
        (event,) = spikes(outcomes)
        assert (event["update"], event["quantity"], event["action"]) == (SPIKE_UPDATE, "grad_norm", action)
        assert event["value"] > event["median"] and event["deviations"] > 20
    for ours, theirs in zip(report, off, strict=True):
        assert all(torch.equal(shard, theirs["shards"][name]) for name, shard in ours["shards"].items())
    assert not skips(report)
    (event,) = skips(skip)
    assert (event["update"], event["reason"], event["ranks"]) == (SPIKE_UPDATE, "spike of grad_norm", [])
    assert len(event["samples"]) == BATCH
    assert [row["step"] for row in skip[0]["metrics"]] == list(range(1, 13))
    assert skip[0]["metrics"][-1]["skipped_steps"] == 1


def spikes(outcomes: Outcomes) -> list[dict[str, Any]]:
    """Return the spike events of a run."""
    return [event for event in outcomes[0]["events"] if event["event"] == "spike"]


def test_a_spike_that_is_skipped_leaves_no_trace(prepared: Path, undisturbed_runs: Any, tmp_path: Path) -> None:
    settings = {"guard__spike_window": 8, "guard__spike": "skip"}
    fault = Fault("split", 1, rank=1, factor=1e6, history=(10.0,) * 8)
    outcomes = ranks(tmp_path / "run", prepared, DP2, fault, {}, settings)
    check_same(outcomes, undisturbed_runs("dp2", "fp32"))
    assert [event["reason"] for event in skips(outcomes)] == ["spike of grad_norm"]
