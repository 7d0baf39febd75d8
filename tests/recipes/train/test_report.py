"""Reports while a run trains. tests/launch checks the output of whole runs, test_nan.py skips and spikes in real runs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recipes.checkpoint.layout import Counters
from recipes.errors import TrainingBroken
from recipes.objectives.data2vec import Data2Vec
from recipes.train.bad_items import BadItems
from recipes.train.best import BestEvaluation
from recipes.train.metrics import Interval
from recipes.train.report import EXIT_DONE, EXIT_REQUEUE, finish, report, report_event, report_first_probe, report_last_save, report_update
from tests.distributed import run_distributed
from tests.launching import tiny_recipe
from tests.recipes.train.faulty import ONE, UNDISTURBED, prepare_pictures, run_rank


class RecordedReports:
    """Stands for the run dir, the metrics writer and the stop request of rank 0, and records what they receive."""

    def __init__(self, path: Path) -> None:
        self.path, self.reason = path, "SIGTERM"
        self.events: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.close, self.remove_file = lambda: None, lambda: None
        self.steps: list[int] = []
        self.terminal = SimpleNamespace(say=self.lines.append, step=self.steps.append)

    def event(self, kind: str, **fields: Any) -> None:
        self.events.append({"event": kind, **fields})

    def warn(self, text: str) -> None:
        self.lines.append(f"warning: {text}")

    def write(self, metrics: dict[str, Any], interval: Interval) -> None:
        self.rows.append(metrics)


def state_at(step: int, reports: RecordedReports | None) -> Any:
    """A run of 10 steps whose counters stand at `step`; two updates were skipped."""
    recipe = tiny_recipe(run__max_steps=10, guard__min_target_std=0.5, guard__after_steps=5)
    data2vec: Any = SimpleNamespace(_recipe=recipe)
    return SimpleNamespace(
        recipe=recipe,
        step=step,
        counters=Counters(step, step + 2, 8 * step, 100 * step),
        interval=Interval(steps=4, seconds=2.0, tokens=400, data_wait_seconds=1.0),
        world=SimpleNamespace(size=2, largest=lambda number: 3 << 30),
        device=torch.device("cpu"),
        objective=SimpleNamespace(
            parallel=SimpleNamespace(tp_size=1), display=Data2Vec.display, check=lambda metrics: Data2Vec.check(data2vec, metrics)
        ),
        data=SimpleNamespace(bad_items=BadItems(400, 0.01)),
        drift_check=SimpleNamespace(new_drifts=list),
        run_dir=reports,
        writer=reports,
        stop=reports,
        is_done=step == 10,
        best=BestEvaluation(),
    )


def test_events_have_the_step_and_are_written_by_rank_0(tmp_path: Path) -> None:
    reports = RecordedReports(tmp_path)
    report_event(state_at(3, reports), "bad_item", where="x.wav")
    report_event(state_at(3, None), "bad_item", where="x.wav")
    assert reports.events == [{"event": "bad_item", "step": 3, "where": "x.wav"}]


def test_a_drift_is_an_event_with_all_names_and_a_warning_with_the_first(tmp_path: Path) -> None:
    reports = RecordedReports(tmp_path)
    state = state_at(3, reports)
    report(state, {"step": 3, "loss": 1.0, "target_std": 1.0})
    assert reports.events == reports.lines == []
    state.drift_check.new_drifts, state.interval = lambda: ["a.bias", "b.bias"], Interval(steps=1, seconds=1.0)
    report(state, {"step": 3, "loss": 1.0, "target_std": 1.0})
    assert reports.events == [{"event": "drift", "step": 3, "parameters": ["a.bias", "b.bias"]}]
    assert reports.lines == [
        "warning: the copies of a.bias and 1 more differ between tensor-parallel ranks at step 3; go back to a checkpoint before it"
    ]


def test_an_update_without_spike_or_skip_moves_the_bar_and_writes_no_event(tmp_path: Path) -> None:
    reports = RecordedReports(tmp_path)
    report_update(state_at(3, reports), SimpleNamespace(spikes=[]), None, 0.5)  # type: ignore[arg-type]
    assert (reports.steps, reports.events) == ([3], [])


def test_a_skipped_update_is_an_event_with_its_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = RecordedReports(tmp_path)
    state = state_at(3, reports)
    state.data = SimpleNamespace(loader=SimpleNamespace(positions=lambda update: [update]))
    state.config = SimpleNamespace(batch=None)
    monkeypatch.setattr("recipes.train.report.blamed_samples", lambda skip, positions, batch: positions)
    skip: Any = SimpleNamespace(reason="loss is not finite", ranks=[1])
    report_update(state, SimpleNamespace(spikes=[]), skip, 0.5)  # type: ignore[arg-type]
    assert reports.events == [
        {"event": "skip", "step": 3, "update": 4, "reason": "loss is not finite", "seconds": 0.5, "ranks": [1], "samples": [4]}
    ]


def test_a_logged_step_has_the_interval_and_begins_a_new_one(tmp_path: Path) -> None:
    reports = RecordedReports(tmp_path)
    state = state_at(3, reports)
    report(state, {"step": 3, "loss": 1.0, "target_std": 1.0, "pred_std": 1.0})
    (row,) = reports.rows
    assert (row["samples"], row["tokens"], row["skipped_steps"], row["world_size"], row["data_wait_seconds"]) == (24, 300, 2, 2, 0.25)
    assert row["peak_memory_bytes"] == 3 << 30, "of the rank that takes most"
    assert state.interval == Interval()


@pytest.mark.parametrize(
    ("change", "complaint"), [({"target_std": 0.1}, "collapsed at step 7"), ({"loss": float("nan")}, "loss is nan at step 7")]
)
def test_a_collapse_ends_the_run_on_every_rank_after_it_was_logged(tmp_path: Path, change: dict[str, float], complaint: str) -> None:
    metrics, reports = {"step": 7, "loss": 1.0, "target_std": 1.0, "pred_std": 1.0, **change}, RecordedReports(tmp_path)
    for one in (reports, None):
        with pytest.raises(TrainingBroken, match=complaint):
            report(state_at(7, one), dict(metrics))
    assert len(reports.rows) == 1


def test_the_end_of_a_run_prints_done_or_what_stopped_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Path, Any]] = []
    monkeypatch.setattr("recipes.train.report.plot_metrics", lambda path, panels: drawn.append((path, panels)))
    done, stopped = RecordedReports(tmp_path), RecordedReports(tmp_path)
    assert finish(state_at(10, done)) == EXIT_DONE == 0 and finish(state_at(4, stopped)) == EXIT_REQUEUE == 75
    assert finish(state_at(10, None)) == 0 and finish(state_at(4, None)) == 75, "ranks that print nothing return the same code"
    assert drawn == [(tmp_path, Data2Vec.display.panels)]
    assert done.lines[0] == f"done: 10 steps, 1,000 tokens in {tmp_path}; peak memory 3.0 GiB a rank" and done.events[0]["reason"] == "done"
    assert stopped.lines == ["stopped by SIGTERM at step 4, saved; the same command continues"]
    assert stopped.events == [{"event": "stop", "step": 4, "reason": "SIGTERM"}]


def test_the_end_of_a_run_counts_the_items_that_could_not_be_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.train.report.plot_metrics", lambda path, panels: None)
    for step in (4, 10):
        reports = RecordedReports(tmp_path)
        state = state_at(step, reports)
        state.data = SimpleNamespace(bad_items=SimpleNamespace(summary=lambda: "3 items"))
        finish(state)
        assert reports.lines[0] == "3 items" and reports.lines[1].startswith(("stopped", "done"))


def test_the_probe_before_the_first_update_is_an_event_and_a_line(tmp_path: Path) -> None:
    reports = RecordedReports(tmp_path)
    for one in (reports, None):
        report_first_probe(state_at(0, one), {"probe": 0.25})
    assert reports.events == [{"event": "probe", "step": 0, "probe": 0.25}]
    assert reports.lines == ["before the first update: probe 0.250"]


def test_the_last_save_after_a_stop_request_is_announced(tmp_path: Path) -> None:
    reports = RecordedReports(tmp_path)
    for reports.agreed in (False, True):  # type: ignore[attr-defined]
        report_last_save(state_at(4, reports))
    report_last_save(state_at(4, None))
    assert reports.lines == ["stopping: saving step 4"]


def test_the_first_step_the_evaluations_and_the_last_step_are_always_logged(tmp_path: Path) -> None:
    prepared = prepare_pictures(tmp_path)
    settings = {"run__max_steps": 5, "run__log_steps": 10, "run__eval_steps": 3}
    (outcome,) = run_distributed(run_rank, 1, tmp_path / "run", prepared, ONE, UNDISTURBED, {}, settings)
    assert [(row["step"], "eval_loss" in row) for row in outcome["metrics"]] == [(1, False), (3, True), (5, True)]
