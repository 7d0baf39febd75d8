"""The verb collect: reads all runs of a study, and writes table.parquet, table.csv and curves.parquet. Torch-free."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recipes.data.libraries import required
from recipes.errors import ConfigError
from recipes.study.log_sample import Row
from recipes.study.planned import add_plans
from recipes.study.progress import Progress, summary_line
from recipes.study.results_table import collect_run
from recipes.study.study_file import Study
from recipes.system.durable import write_bytes_atomically

MOST_INTEGER = 2**63 - 1
TABLE, CSV, CURVES, DATASET = "table.parquet", "table.csv", "curves.parquet", "dataset"


def collect(study: Study, progress: Sequence[Progress], say: Callable[[str], None]) -> list[Row]:
    """Read all runs, write the files, and return the rows of the table. Raises: ConfigError if no run has begun, or a run dir holds a run
    of other settings."""
    if all(one.state.state == "queued" for one in progress):
        raise ConfigError(f"{study.out}: none of the {len(progress)} runs has begun; python launch/scaling.py submit {study.path}")
    found = [collect_run(study, one) for one in progress]
    rows = _with_all_columns([one.row for one in found])
    note = add_plans(study, progress, rows)
    _write(study.out / TABLE, _parquet(rows))
    _write(study.out / CSV, _csv(rows).encode())
    _write(study.out / CURVES, _parquet([row for one in found for row in one.curve]))
    say(summary_line(progress))
    for row in rows:
        if row["reason"] or row["problem"]:
            say(f"{row['cell']} seed {row['seed']}: {row['state']}, {row['problem'] or row['reason']}")
    if note:
        say(note)
    say(f"written to {study.out / TABLE}, {CSV} and {CURVES}")
    return rows


def read_table(study: Study) -> list[Row]:
    """Return the rows of the collected table. Raises: ConfigError if there is none, or it was collected for another metric."""
    rows = _read(study, TABLE)
    others = {row.get("metric_name") for row in rows} - {None, study.metric}
    if others:
        raise ConfigError(f"{study.path}: metric is {study.metric}, and the table was collected for {others.pop()}; collect again")
    return rows


def read_curves(study: Study) -> list[Row]:
    """Return the rows of the collected curves. Raises: ConfigError if there are none."""
    return _read(study, CURVES)


def _read(study: Study, name: str) -> list[Row]:
    arrow, parquet = required("pyarrow"), required("pyarrow.parquet")
    path = study.out / name
    if not path.exists():
        raise ConfigError(f"there is no {path}; first: python launch/scaling.py collect {study.path}")
    try:
        return parquet.read_table(path).to_pylist()
    except (arrow.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{path}: cannot be read ({str(error).splitlines()[0]}); collect again") from None


def save_dataset(study: Study, rows: Sequence[Row]) -> Path:
    """Write the table as a folder that datasets.load_from_disk() reads, and return its path. Raises: ConfigError."""
    datasets, folder = required("datasets"), study.out / DATASET
    datasets.disable_progress_bars()
    try:
        datasets.Dataset(_table(rows)).save_to_disk(str(folder))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); free the disk and collect again") from None
    return folder


def _with_all_columns(rows: Sequence[Row]) -> list[Row]:
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def _parquet(rows: Sequence[Row]) -> bytes:
    target = io.BytesIO()
    required("pyarrow.parquet").write_table(_table(rows), target)
    return target.getvalue()


def _table(rows: Sequence[Row]) -> Any:
    """Return rows, which have the same keys, as a table of pyarrow."""
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    return required("pyarrow").table({name: _array(values) for name, values in columns.items()})


def _array(values: list[Any]) -> Any:
    """Return a column. Values of several kinds, as an axis may have them, become texts; integers of more than 64 bits become floats."""
    pa = required("pyarrow")
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        if float in kinds or any(value is not None and abs(value) > MOST_INTEGER for value in values):
            return pa.array([None if value is None else float(value) for value in values], pa.float64())
        return pa.array(values, pa.int64() if kinds else pa.null())
    return pa.array(values if len(kinds) == 1 else [None if value is None else str(value) for value in values])


def _csv(rows: Sequence[Row]) -> str:
    target = io.StringIO()
    writer = csv.DictWriter(target, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return target.getvalue()


def _write(path: Path, content: bytes) -> None:
    try:
        write_bytes_atomically(path, content)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); free the disk and collect again") from None
