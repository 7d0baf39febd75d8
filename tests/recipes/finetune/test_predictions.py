"""The csv file of predictions: what is written is read back, whatever a text contains."""

from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.finetune.predictions import PredictedRow, predictions_path, read_predictions, write_predictions

AWKWARD = 'one, "two";\nthree\r\nfour'


def test_rows_are_read_back_with_commas_quotes_and_line_ends(tmp_path: Path) -> None:
    rows = [PredictedRow(AWKWARD, "bad", "good", 0.123456789), PredictedRow("", None, "good", None), PredictedRow("é", "3", "-1", -2.5)]
    path = write_predictions(tmp_path, "test", "text", rows)
    assert path == tmp_path / "predictions" / "test.csv"
    assert read_predictions(path) == rows
    assert path.read_bytes().splitlines()[0] == b"text,label,prediction,score"
    assert [one.name for one in path.parent.iterdir()] == ["test.csv"], "no partial file is left"


def test_a_path_that_is_no_text_is_written_with_its_bytes_in_digits(tmp_path: Path) -> None:
    path = write_predictions(tmp_path, "test", "path", [PredictedRow("a\udcff.wav", "x", "y", 1.0)])
    assert read_predictions(path)[0].shown == "a\\udcff.wav"


def test_a_split_with_a_slash_in_its_name_stays_in_the_folder(tmp_path: Path) -> None:
    assert predictions_path(tmp_path, "mnli/matched") == tmp_path / "predictions" / "mnli_matched.csv"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "predictions").touch()
    with pytest.raises(ConfigError, match=r"predictions/test\.csv: cannot be written \(.*\); .* the same command scores the run"):
        write_predictions(tmp_path, "test", "text", [])
