"""Contenders are timed in turn, and their ratios are those of pairs."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import step_rounds
from recipes.plan.flops import step_flops
from step_rounds import AGAINST, OURS, PLAIN, Rounds, efficiency
from tests.launching import tiny_recipe

CPU = torch.device("cpu")


def rounds_of(monkeypatch: pytest.MonkeyPatch, times: dict[str, list[dict[str, float]]], warm_up: int = 0) -> tuple[Rounds, list[str]]:
    """Run rounds in which the contenders report these parts of updates. Return the rounds, and the order of the updates."""
    monkeypatch.setattr(step_rounds, "matmul_flops", lambda dtype, device: 2e9)
    order: list[str] = []

    def contender(name: str) -> Any:
        parts = iter(times[name])
        return lambda: order.append(name) or next(parts)

    rounds = Rounds({name: contender(name) for name in times}, "fp32", CPU)
    rounds.run(len(times[OURS]), warm_up)
    return rounds, order


def test_the_ratio_is_the_median_of_pairs_and_every_other_round_is_reversed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [{"backward": 1.0, "guard": 1.0}, {"backward": 7.0, "guard": 1.0}, {"backward": 3.0, "guard": 1.0}]
    times = {OURS: ours, AGAINST: [{"backward": 1.0}, {"backward": 16.0}, {"backward": 4.0}], PLAIN: [{"step": 0.5}] * 3}
    rounds, order = rounds_of(monkeypatch, times)
    assert order == [OURS, AGAINST, PLAIN, PLAIN, AGAINST, OURS, OURS, AGAINST, PLAIN]
    seen = rounds.figures(["precision=bf16"])
    assert seen["step_milliseconds"] == 4000 and seen["best_step_milliseconds"] == 2000 and seen["against_step_milliseconds"] == 4000
    assert seen["update_over_against"] == 1.0 and seen["against"] == ["precision=bf16"]
    assert seen["update_over_plain"] == 8.0 and seen["engine_over_plain"] == 6.0, "the guard is no part of the engine"
    assert seen["split_milliseconds"] == {"backward": 3000, "guard": 1000}


def test_only_the_others_are_warmed_up_since_ours_already_is(monkeypatch: pytest.MonkeyPatch) -> None:
    _, order = rounds_of(monkeypatch, {OURS: [{"all": 1.0}], PLAIN: [{"step": 1.0}] * 3}, warm_up=2)
    assert order == [PLAIN, PLAIN, OURS, PLAIN]


def test_notes_are_on_a_busy_machine_and_on_an_unknown_device(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds, _ = rounds_of(monkeypatch, {OURS: [{"all": 2.0}]})
    recipe = tiny_recipe(run__global_batch_size=4)
    ours, flops = SimpleNamespace(recipe=recipe, batch=SimpleNamespace(num_tokens=80, inputs=[0] * 4)), step_flops(recipe, 80, 4)
    rounds.foreign_cores = 64.0
    seen = efficiency(ours, rounds)
    assert seen["mfu"] is None and seen["percent_of_matmul_peak"] == pytest.approx(100 * flops / 2.0 / 2e9)
    busy, unknown = seen["notes"]
    assert busy.startswith("busy: other processes used 64.0 of ") and "--set run.device_tflops=N" in unknown
    rounds.foreign_cores = 0.0
    ours.recipe = tiny_recipe(run__global_batch_size=4, run__device_tflops=0.001)
    seen = efficiency(ours, rounds)
    assert seen["mfu"] == pytest.approx(flops / 2.0 / 1e9) and seen["notes"] == []
    rounds.device = torch.device("cuda")
    ours.recipe = recipe
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA B300")
    (line,) = efficiency(ours, rounds)["notes"]
    assert line.startswith("mfu is null: no peak is known for NVIDIA B300; --set run.device_tflops=N")
