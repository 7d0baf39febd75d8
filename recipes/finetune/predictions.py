"""The file of a split's predictions: one row for each sample, in the order of the data. Torch-free."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from recipes.errors import ConfigError
from recipes.finetune.task_result import FAILED
from recipes.system.durable import write_bytes_atomically

FOLDER = "predictions"


class PredictedRow(NamedTuple):
    """One sample: its text or path, its label (None: it has none), what was predicted, and how sure the network is (None: not known)."""

    shown: str
    label: Any
    prediction: str
    score: float | None


def predictions_path(run_dir: Path, split: str) -> Path:
    """Return the path of the predictions for a split."""
    return run_dir / FOLDER / f"{split.replace('/', '_')}.csv"


def write_predictions(run_dir: Path, split: str, shown_as: str, rows: Iterable[PredictedRow]) -> Path:
    """Write predictions/SPLIT.csv, complete or not at all, and return its path. `shown_as`: name of the first column, text or path.
    Raises: ConfigError if it cannot be written."""
    path, text = predictions_path(run_dir, split), io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([shown_as, "label", "prediction", "score"])
    writer.writerows(rows)  # None becomes an empty cell
    try:
        path.parent.mkdir(exist_ok=True)
        write_bytes_atomically(path, text.getvalue().encode(errors="backslashreplace"))  # a path may have undecodable bytes
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error}); {FAILED}") from None
    return path


def read_predictions(path: Path) -> list[PredictedRow]:
    """Return the rows of a file of predictions. Labels are text, "" becomes None."""
    with path.open(newline="") as file:
        rows = csv.reader(file)
        next(rows)
        return [PredictedRow(shown, label or None, said, float(score) if score else None) for shown, label, said, score in rows]
