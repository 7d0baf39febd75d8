"""The verb report: report.html and its pictures, from the collected table, the curves and fit.json. Torch-free."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from recipes.errors import ConfigError
from recipes.plan.memory import GIB
from recipes.study.cells import Cell
from recipes.study.collect import TABLE
from recipes.study.conclusions import conclusions
from recipes.study.figure_style import render
from recipes.study.fit import FIT, fit_study, read_fit
from recipes.study.fit_lines import fit_lines
from recipes.study.fit_pictures import fit_pictures
from recipes.study.grid import rule_lines
from recipes.study.log_sample import Row
from recipes.study.page import Page, TableCell
from recipes.study.planned import MEMORY, STEP
from recipes.study.results_table import AXIS
from recipes.study.run_folder import run_dir_of
from recipes.study.run_pictures import run_pictures
from recipes.study.study_file import Study
from recipes.study.wording import in_percent
from recipes.system.durable import write_text_atomically

REPORT, PICTURES = "report.html", "pictures"
STATES = {"done": "ok", "failed": "bad"}


def write_report(study: Study, cells: Sequence[Cell], rows: Sequence[Row], curves: Sequence[Row]) -> Path:
    """Write the page and the PNGs of its pictures, and return the page's path. The table is fitted first if that has not been done since
    it was collected. Raises: ConfigError if they cannot be written."""
    fit, note = _current_fit(study, rows)
    folder = study.out / PICTURES
    found = [*(fit_pictures(study, rows, fit) if fit else ()), *run_pictures(study, rows, curves)]
    can, cannot = conclusions(study, rows, fit)
    axes = list(dict.fromkeys(key for row in rows for key in row if key.startswith(AXIS)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page = Page(
            title=f"Study {study.name}",
            subtitle=f"{study.base_name}, {len({row['cell'] for row in rows})} cells, {len(rows)} runs, metric {study.metric}",
            can=can,
            cannot=[*cannot, note] if note else cannot,
            pictures=[(picture, render(picture, folder / f"{picture.name}.png")) for picture in found],
            fit=list(fit_lines(fit)) if fit else [],
            rules=list(rule_lines(study, cells)),
            columns=["run", *(axis.removeprefix(AXIS) for axis in axes), "state", "remark", *(name for name, _, _ in COLUMNS)],
            table=[_row(study, row, axes) for row in rows],
            footer=f"Made from table.parquet, curves.parquet and fit.json in {study.out}, {time.strftime('%Y-%m-%d %H:%M')}.",
        )
        write_text_atomically(study.out / REPORT, page.to_html())
    except OSError as error:
        raise ConfigError(f"{study.out / REPORT} cannot be written ({error.strerror}); free the disk and give the command again") from None
    return study.out / REPORT


def _current_fit(study: Study, rows: Sequence[Row]) -> tuple[dict[str, Any] | None, str]:
    """Return the content of fit.json, made anew if the table is newer, and a sentence if there is none."""
    path, table = study.out / FIT, study.out / TABLE
    if path.exists() and path.stat().st_mtime >= table.stat().st_mtime and (found := read_fit(study)):
        return found, ""
    try:
        return fit_study(study, rows).to_json(), ""
    except ConfigError as error:
        return None, f"There is no fit: {error}."


def _seconds(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"


COLUMNS = (
    ("metric", "metric", lambda value: f"{value:.4g}"),
    ("random init", "random_init", lambda value: f"{value:.4g}"),
    ("parameters", "parameters", lambda value: f"{value:,}"),
    ("updates", "step", lambda value: f"{value:,}"),
    ("tokens", "tokens", lambda value: f"{value:.3g}"),
    ("FLOPs", "flops", lambda value: f"{value:.3g}"),
    ("tokens/s", "tokens_per_second", lambda value: f"{value:,.0f}"),
    ("s/update", "step_seconds", _seconds),
    ("planned s", STEP, _seconds),
    ("GiB", "peak_memory_bytes", lambda value: f"{value / GIB:.2f}"),
    ("planned GiB", MEMORY, lambda value: f"{value / GIB:.2f}"),
    ("goodput", "goodput", in_percent),
    ("hours", "wall_seconds", lambda value: f"{value / 3600:.2f}"),
)
"""Heading, column of the table, and how a value is shown."""


def _row(study: Study, row: Row, axes: Sequence[str]) -> list[TableCell]:
    link = run_dir_of(study, row["cell"], row["seed"]).relative_to(study.out)  # so that a study that is moved has its links
    name = TableCell(f"{row['cell']} seed {row['seed']}", quote(f"{link.as_posix()}/"))
    values = [TableCell(_axis(row.get(axis))) for axis in axes]
    state = TableCell(row["state"], kind=STATES.get(row["state"], ""))
    remark = TableCell(row["problem"] or row["reason"] or "", kind="reason" if row["problem"] or row["reason"] else "")
    numbers = [TableCell(show(row[key]) if row.get(key) is not None else "") for _, key, show in COLUMNS]
    return [name, *values, state, remark, *numbers]


def _axis(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)
