"""The state of a run: its heartbeats, its run dir, and the small values that a checkpoint holds beside shards."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recipes.checkpoint.layout import Counters
from recipes.config import GuardConfig
from recipes.data.order import EpochOffset
from recipes.train.spikes import SpikeStatistic
from recipes.train.state import TrainState

SCALE = {"cur_scale": 512.0, "cur_iter": 7.0, "last_overflow_iter": 3.0, "cur_hysteresis": 1.0}


def state_with(*, dynamic: bool = False, own: dict[str, Any] | None = None, run_dir: Any = None) -> tuple[TrainState, list[Any]]:
    """Return a state after 3 applied of 5 updates, and the list of beats that its watch receives."""
    beats: list[Any] = []
    student = SimpleNamespace(device="cpu", optimizer=SimpleNamespace(loss_scaler=SimpleNamespace(dynamic=dynamic, **SCALE)))
    spikes = SpikeStatistic(GuardConfig())
    spikes.add(2.0, 4.0)
    parts: dict[str, Any] = {
        "objective": SimpleNamespace(student=student, state=lambda: own or {}),
        "saving": SimpleNamespace(run_dir=run_dir),
        "watch": SimpleNamespace(beat=lambda *sign: beats.append(sign)),
    }
    loader = SimpleNamespace(start_of=lambda update: EpochOffset(update, 2, 8 * update))
    others: dict[str, Any] = dict.fromkeys(("recipe", "config", "world", "stop")) | {"data": SimpleNamespace(loader=loader)}
    return TrainState(**others, **parts, counters=Counters(3, 5, 40, 1000), spikes=spikes), beats


def test_a_beat_passes_step_phase_and_micro_batch_to_the_watch_and_on_rank_0_to_the_terminal() -> None:
    state, beats = state_with()
    state.beat("data")
    state.beat("forward", 2)
    assert beats == [(3, "data", 0), (3, "forward", 2)]
    shown: list[Any] = []
    state.writer = SimpleNamespace(terminal=SimpleNamespace(beat=lambda *sign: shown.append(sign)))  # type: ignore[assignment]
    state.beat("evaluate", 5)
    assert beats[-1] == (3, "evaluate", 5) and shown == beats[-1:]


def test_the_run_dir_is_the_one_that_is_saved_into(tmp_path: Path) -> None:
    run_dir = SimpleNamespace(path=tmp_path)
    assert state_with(run_dir=run_dir)[0].run_dir is run_dir and state_with()[0].run_dir is None
    assert state_with()[0].device == torch.device("cpu")


@pytest.mark.parametrize("dynamic", [True, False])
def test_small_states_are_the_loss_scale_the_spike_window_the_place_in_the_data_and_what_the_objective_keeps(dynamic: bool) -> None:
    scale, spikes, place = SCALE if dynamic else {}, {"loss": [2.0], "grad_norm": [4.0]}, {"epoch": 2, "offset": 40}
    assert state_with(dynamic=dynamic, own={"centre": [1.0]})[0].small_states() == {
        "loss_scaler": scale,
        "spikes": spikes,
        "place": place,
        "objective": {"centre": [1.0]},
    }
    least = {"loss_scaler": scale, "spikes": spikes, "place": place}
    assert state_with(dynamic=dynamic)[0].small_states() == least, "no entry if the objective has no values"
