"""The table of a study: one row for each run, with its configuration, its scores and what it cost. Torch-free."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from model.shapes import count_parameters
from recipes.errors import ConfigError
from recipes.finetune.results import NAME as RESULTS
from recipes.finetune.results import read_results
from recipes.ledger.launches import divide
from recipes.ledger.ledger import wall_parts
from recipes.plan.size import num_parameters, num_trunk_parameters
from recipes.study.log_sample import Row, finite, sampled_rows
from recipes.study.progress import Progress
from recipes.study.run_folder import check_run
from recipes.study.study_file import RANKS, Study, axis_names, short_names
from recipes.system.json_lines import read_rows
from recipes.train.probe import METRIC

ROWS_OF_A_CURVE = 200
"""Most rows of a run that are read evenly over its length. So a median of times is that of a sample of the updates."""
AXIS = "axis."
"""Prefix of the columns that have the values of the axes."""
RARE = (METRIC, "eval_loss")
"""Keys of rows that are read even if the sample leaves them out."""
RATES = ("step_seconds", "tokens_per_second", "mfu", "data_wait_seconds")
"""Metrics whose value is the median over a run. Others have that of the last row with the key."""
SKIP_ROWS = 1
"""Rows at the start whose rates do not count: the first update warms up."""
LAST = ("step", "tokens", "samples", "loss", "eval_loss", "explained_variance", "target_rank", METRIC, "skipped_steps", "world_size")
MAXIMUM = ("peak_memory_bytes",)
CURVE = ("step", "tokens", "loss", "grad_norm", "lr", "explained_variance", "target_rank", METRIC, "step_seconds", "tokens_per_second")


class Collected(NamedTuple):
    """What was read of one run: its row of the table, and the rows of its curves."""

    row: Row
    curve: list[Row]


def collect_run(study: Study, progress: Progress) -> Collected:
    """Read one run. What is missing or not finite is None, and `problem` says so. Raises: ConfigError if it is a run of other settings."""
    run, state = progress
    rows = sampled_rows(run.path / "metrics.jsonl", ROWS_OF_A_CURVE, (*RARE, study.metric_key))
    events, _ = read_rows(run.path / "events.jsonl")
    cell = run.cell
    row: Row = {
        "study": study.name,
        "metric_name": study.metric,
        "cell": cell.name,
        "seed": run.seed,
        "state": state.state,
        "reason": state.reason or None,
        **{f"{AXIS}{axis}": value for axis, value in cell.values.items()},
        "parameters": num_parameters(cell.recipe),
        "trunk_parameters": num_trunk_parameters(cell.recipe),
        "block_parameters": count_parameters(cell.recipe.model.parameters),
        "flops_per_token": cell.flops / cell.tokens,
        "budget_flops": cell.budget_flops,
        "planned_flops": cell.flops,
        "updates": cell.recipe.run.max_steps,
        "batch": cell.recipe.run.global_batch_size,
        "learning_rate": cell.recipe.optim.lr,
        "ranks": cell.ranks,
        **measured(rows),
        "random_init": _first_probe(events),
        **_cost(rows, events),
        **_scores(run.path),
        "settings": json.dumps(dict(cell.settings)),
        "run_dir": str(run.path),
    }
    row["flops"] = cell.flops * (row["step"] or 0) / cell.recipe.run.max_steps
    row["metric"] = row[study.metric_key] if study.metric_key in row else last_value(rows, study.metric_key)
    row["problem"] = check_run(run) or _problem(study, row)
    curve = [{"cell": cell.name, "seed": run.seed} | {key: finite(one.get(key)) for key in CURVE} for one in rows]
    return Collected(row, curve)


def measured(rows: Sequence[Row]) -> Row:
    """Return the numbers of a run from rows of its metrics.jsonl: medians of rates, the last values, the largest memory."""
    timed = rows[SKIP_ROWS:] or rows
    found: Row = {key: last_value(rows, key) for key in LAST}
    for key in RATES:
        values = [value for row in timed if (value := finite(row.get(key))) is not None]
        found[key] = median(values) if values else None
    for key in MAXIMUM:
        found[key] = max((value for row in rows if (value := finite(row.get(key))) is not None), default=None)
    return found


def last_value(rows: Sequence[Row], key: str) -> float | None:
    """Return the value of the last row that has the key; None if there is none, or it is no finite number."""
    return finite(next((row[key] for row in reversed(rows) if row.get(key) is not None), None))


def throughput_series(study: Study, rows: Sequence[Row]) -> dict[str, dict[int, list[Row]]]:
    """Return series -> ranks -> rows of the runs that are done and have a rate. A series has the runs that differ only in the axis
    that changes the ranks, which may change the batch too; its name has the values of the other axes."""
    shown = short_names(study.axes)
    scaled = {f"{AXIS}{shown[axis]}" for axis, values in study.axes.items() if RANKS in axis_names(axis, values)}
    series = defaultdict[str, dict[int, list[Row]]](lambda: defaultdict(list))
    for row in rows:
        if row["state"] == "done" and row["tokens_per_second"] and row["ranks"]:
            others = {key: value for key, value in row.items() if key.startswith(AXIS) and key not in scaled and value is not None}
            name = ", ".join(f"{key.removeprefix(AXIS)} {named(value)}" for key, value in others.items())
            series[name][row["ranks"]].append(row)
    return series


def mean_rate(rows: Sequence[Row]) -> float:
    """Return the mean of the rows' tokens a second."""
    return mean(row["tokens_per_second"] for row in rows)


def named(value: Any) -> str:
    """Return the value of an axis as pictures show it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _first_probe(events: Sequence[Row]) -> float | None:
    """Return the score of the probe before the first update: that of the network at random initialisation."""
    return finite(next((event.get(METRIC) for event in events if event.get("event") == METRIC), None))


def _cost(rows: Sequence[Row], events: Sequence[Row]) -> Row:
    """Return wall time, goodput (share of the wall time in updates that stay) and number of launches."""
    timed = [row for row in rows if isinstance(row.get("step"), int) and finite(row.get("step_seconds")) is not None]
    dated = [event for event in events if isinstance(event.get("time"), int | float) and isinstance(event.get("event"), str)]
    newest = max((event["time"] for event in dated), default=0.0)
    launches, _ = divide(dated, timed, newest)
    parts = wall_parts(launches)
    wall = sum(parts.values())
    return {"wall_seconds": wall or None, "goodput": parts["training"] / wall if wall else None, "launches": len(launches)}


def _scores(run_dir: Path) -> Row:
    """Return the scores of results.json, by task and data: those of the probe and fine-tuning commands."""
    if not (run_dir / RESULTS).exists():
        return {}
    try:
        entries = read_results(run_dir)
    except ConfigError:
        return {}
    names = [(f"{entry['task']}.{Path(str(entry.get('data'))).name}.{entry.get('weights')}", entry) for entry in entries]
    return {f"results.{name}": finite(entry.get("mean")) for name, entry in names}


def _problem(study: Study, row: Mapping[str, Any]) -> str | None:
    """Return why a run that is done cannot be used; None if it can."""
    if row["state"] != "done":
        return None
    if row["metric"] is None:
        return f"{study.metric_key} is missing or not finite in its metrics.jsonl"
    return None
