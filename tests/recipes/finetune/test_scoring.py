"""Scores of a finished run: equal to the metrics of its predictions, from the best checkpoint, on every test split, once."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from recipes.checkpoint.layout import BEST
from recipes.errors import ConfigError, Stopped
from recipes.finetune import scoring
from recipes.finetune.predictions import PredictedRow, predictions_path, read_predictions
from recipes.finetune.results import NAME, read_results
from recipes.finetune.scoring import score_run
from recipes.scores.table import CLASS_METRICS
from tests.launching import launch, refused
from tests.recipes.finetune.reviews import COUNTS, FINETUNE_TEXT, finetune_flags, write_reviews

TESTS = ("test", "hard", "blind")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained and scored by the command. Copy it before a change."""
    folder = tmp_path_factory.mktemp("scored")
    data = write_reviews(folder / "data", COUNTS | {"hard": 5, "blind": 4}, unlabelled=["blind"])
    done = launch(FINETUNE_TEXT, finetune_flags(data, folder / "run", data__test_splits=",".join(TESTS)), folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout.txt").write_text(done.stdout)
    return folder / "run"


@pytest.fixture
def run(scored: Path, tmp_path: Path) -> Path:
    shutil.copytree(scored, tmp_path / "run")
    return tmp_path / "run"


def unscored(run: Path) -> Path:
    """Remove the results of the run, as if it had just been trained."""
    (run / NAME).unlink()
    shutil.rmtree(run / "predictions")
    return run


def metrics_of(rows: list[PredictedRow]) -> dict[str, float]:
    names = sorted({str(row.label) for row in rows})
    truth, said = (
        np.array([names.index(name) for name in column]) for column in zip(*((r.label, r.prediction) for r in rows), strict=True)
    )
    return {name: metric(truth, said) for name, metric in CLASS_METRICS.items()}


def test_the_results_are_the_metrics_of_the_predictions(scored: Path) -> None:
    entries = {entry["split"]: entry for entry in read_results(scored)}
    assert list(entries) == ["test", "hard"], "splits without labels have predictions only"
    for split, entry in entries.items():
        rows = read_predictions(predictions_path(scored, split))
        assert len(rows) == entry["num_test"] == {"test": 13, "hard": 5}[split]
        for name, value in metrics_of(rows).items():
            assert entry["metrics"][name]["values"] == [pytest.approx(value)], name
        assert entry["mean"] == entry["metrics"]["accuracy"]["mean"] and entry["metric"] == "accuracy"
        assert all(0.5 <= (row.score or 0) <= 1 for row in rows)


def test_predictions_have_the_texts_of_the_data_and_no_label_where_there_is_none(scored: Path) -> None:
    rows = read_predictions(predictions_path(scored, "blind"))
    assert [row.shown.partition("film,")[2] for row in rows] == [f"\nnumber {number}" for number in range(4)]
    assert {row.label for row in rows} == {None} and {row.prediction for row in rows} <= {"good", "bad"}


def test_the_last_lines_are_the_metrics_the_predictions_and_what_comes_next(scored: Path) -> None:
    lines = (scored.parent / "stdout.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in lines[-6:]] == [
        "blind (4 samples without labels)",
        "test (13 samples)",
        "  predictions",
        "hard (5 samples)",
        "  predictions",
        "no export to transformers",
    ]
    assert "probe.py" not in "".join(lines), "that hint is for pre-training"


def test_a_scored_run_is_not_scored_again(run: Path) -> None:
    for path in (run / "prepared").glob("test.*"):
        path.write_text("damaged, so that reading the test data fails")
    before, lines = (run / NAME).read_bytes(), list[str]()
    assert score_run(run, lines.append) == read_results(run)
    assert (run / NAME).read_bytes() == before
    assert lines[0].startswith("test touched once") and lines[1].startswith("test (13 samples): accuracy")


def test_the_command_on_a_finished_run_prints_the_stored_results(scored: Path) -> None:
    before = (scored / NAME).read_bytes()
    flags = finetune_flags(scored.parent / "data", scored, data__test_splits=",".join(TESTS))
    done = launch(FINETUNE_TEXT, flags, scored.parent)
    assert done.returncode == 0 and "is finished" in done.stdout and "test touched once" in done.stdout
    assert (scored / NAME).read_bytes() == before


def test_the_best_checkpoint_is_scored_and_another_one_counts_as_another_time(run: Path) -> None:
    newest = (run / "checkpoints" / "latest").read_text().strip()
    other = next(path.name for path in (run / "checkpoints").glob("step_*") if path.name != newest)
    for number, name in enumerate((newest, other)):
        if number == 0:
            unscored(run)
        (run / "checkpoints" / BEST).write_text(name)
        score_run(run)
        entry = read_results(run)[0]
        assert Path(entry["checkpoints"][0]).name == name and entry["times_scored"] == [number + 1]
        assert f"step_{entry['steps'][0]:08d}" == name


def test_scores_are_the_same_after_a_kill_and_with_the_data_prepared_again(run: Path) -> None:
    before, files = read_results(run), {path.name: path.read_bytes() for path in (run / "predictions").iterdir()}
    unscored(run)
    shutil.rmtree(run / "prepared")
    after = score_run(run)
    assert [entry["metrics"] for entry in after] == [entry["metrics"] for entry in before]
    assert {path.name: path.read_bytes() for path in (run / "predictions").iterdir()} == files


def test_without_a_labelled_test_split_the_validation_split_is_scored_and_a_line_says_so(run: Path) -> None:
    unscored(run)
    content = json.loads((run / "config.json").read_text())
    content["recipe"]["data"]["test_splits"] = ["blind", "absent"]
    (run / "config.json").write_text(json.dumps(content))
    lines = list[str]()
    (entry,) = score_run(run, lines.append)
    assert (entry["split"], entry["chosen_on"], entry["num_test"]) == ("valid", True, 8)
    assert any(line.startswith("valid (8 samples, on which the checkpoint was chosen") for line in lines)


def test_other_data_in_the_prepared_folder_are_refused(run: Path) -> None:
    unscored(run)
    path = run / "prepared" / "prepared.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "f" * 64}))
    with pytest.raises(ConfigError, match="not the data of the run"):
        score_run(run)
    assert not (run / NAME).exists()


@pytest.mark.parametrize("place", ["predictions", NAME])
def test_results_that_cannot_be_written_are_one_line_and_the_same_command_scores_the_run(run: Path, place: str) -> None:
    unscored(run)
    (run / place).mkdir() if place == NAME else (run / place).touch()
    with pytest.raises(ConfigError) as caught:
        score_run(run)
    assert "\n" not in str(caught.value) and place in str(caught.value)
    (run / place).rmdir() if place == NAME else (run / place).unlink()
    assert len(score_run(run)) == 2


def test_an_error_of_the_scoring_is_the_commands_one_line_with_exit_code_2(run: Path, scored: Path) -> None:
    unscored(run)
    (run / "predictions").touch()
    flags = finetune_flags(scored.parent / "data", run, data__test_splits=",".join(TESTS))
    refused(launch(FINETUNE_TEXT, flags, run.parent), r"predictions/.*: cannot be written")


def test_a_stop_request_ends_the_scoring_at_once_and_leaves_no_result(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unscored(run)
    monkeypatch.setattr(scoring, "predict", lambda *args, **more: os.kill(os.getpid(), signal.SIGUSR2))
    with pytest.raises(Stopped, match="stopped by SIGUSR2 during scoring; the same command continues"):
        score_run(run)
    assert not (run / NAME).exists()
