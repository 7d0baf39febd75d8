"""The curves of a run are drawn from metrics.jsonl alone, however few metrics it has."""

import json
import sys
from pathlib import Path

import pytest

from recipes.objectives.data2vec import Data2Vec
from recipes.train.plot import plot_metrics

PANELS = Data2Vec.display.panels
PNG = b"\x89PNG\r\n\x1a\n"
ROW = {"loss": 1.0, "target_std": 0.9, "pred_std": 0.1}
EVAL = {"eval_loss": 1.1, "explained_variance": 0.2, "target_rank": 9.0, "neighbour_correlation": 0.1, "frontend_std": 1.0}


@pytest.mark.parametrize(
    "rows",
    [
        [{"step": 1, **ROW}, {"step": 2, **ROW, **EVAL}],
        [{"step": step, **ROW, **EVAL} for step in range(1, 61)],
        [{"step": 1, **ROW}],
        [{"step": 1, "loss": None}],
        [],
    ],
    ids=["usual", "long", "no evaluation", "nothing known", "empty"],
)
def test_any_metrics_can_be_drawn(tmp_path: Path, rows: list[dict]) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = plot_metrics(tmp_path, PANELS)
    assert path is not None and path == tmp_path / "curves.png" and path.read_bytes().startswith(PNG)


def test_what_is_drawn_is_what_metrics_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import pyplot

    figures: list = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    rows = [{"step": 1, **ROW}, {"step": 5, **ROW, **EVAL, "loss": 0.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plot_metrics(tmp_path, PANELS)
    monkeypatch.undo()
    pyplot.close("all")
    shown = {axis.get_title(): {line.get_label(): line.get_xydata() for line in axis.lines} for axis in figures[0].axes}
    assert {title: set(keys) for title, keys in PANELS.items()} == {title: set(lines) for title, lines in shown.items()}
    assert shown["loss"]["loss"].tolist() == [[1.0, 1.0], [5.0, 0.0]], "0 is a value"
    assert shown["loss"]["eval_loss"].tolist() == [[5.0, 1.1]], "steps without an evaluation leave a gap"


def test_a_probe_has_a_panel_of_its_own_beside_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import pyplot

    figures: list = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    rows = [{"step": 1, **ROW}, {"step": 5, **ROW, **EVAL, "probe": 0.25}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plot_metrics(tmp_path, PANELS)
    monkeypatch.undo()
    pyplot.close("all")
    assert [axis.get_title() for axis in figures[0].axes] == ["loss", "probe", *list(PANELS)[1:]]
    assert [line.get_xydata().tolist() for line in figures[0].axes[1].lines] == [[[5.0, 0.25]]]


def test_if_the_picture_cannot_be_written_there_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, **ROW}) + "\n")
    (tmp_path / "curves.png").mkdir()
    assert plot_metrics(tmp_path, PANELS) is None


def test_without_matplotlib_a_run_ends_without_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, **ROW}) + "\n")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plot_metrics(tmp_path, PANELS) is None and not (tmp_path / "curves.png").exists()
