"""What the planner says about the runs of a study, with rates measured by one or two of them. Torch-free.

Of cells whose updates are planned to take the same time, the run with the median time stands for all. The shortest and the longest of these
are the measures: one alone does not separate the device's time from Python's. If there are fewer than three, or the two do not explain the
times, the middle one is the measure. The rows of measures cannot contradict the plan, so the table marks them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from recipes.errors import ConfigError
from recipes.planner.calibrate import Calibration, calibrate
from recipes.planner.run_plan import RunPlan
from recipes.study.log_sample import Row
from recipes.study.progress import Progress
from recipes.study.study_file import Study

STEP, MEMORY, MEASURE = "planned_step_seconds", "planned_memory_bytes", "is_measure"
FEWEST_FOR_TWO = 3
"""Different updates that a study must have, for two of its runs to be the measures."""
Done = tuple[Progress, Row]


def add_plans(study: Study, progress: Sequence[Progress], rows: Sequence[Row]) -> str:
    """Add to each row the planned time of an update and the planned peak memory, None where there is no plan. Return a line on how the
    plans were made, or why there are none.

    On a CPU the memory has no plan: what is measured is that of the whole process, with libraries and what malloc keeps.
    """
    for one, row in zip(progress, rows, strict=True):
        plan = one.run.cell.plan
        row.update({STEP: None, MEMORY: plan.memory.worst.total if plan.on_gpu else None, MEASURE: False})
    done = [(one, row) for one, row in zip(progress, rows, strict=True) if row["state"] == "done" and row["step_seconds"]]
    if not done:
        return "no plans: no run is done"
    reason = ""
    for measures in _candidates(done):
        try:
            found = _calibrated(measures)
        except ConfigError as error:
            reason = error.without_remedy
            continue
        for _, row in measures:
            row[MEASURE] = True
        _add(progress, rows, found)
        names = " and ".join(f"{one.run.cell.name} seed {one.run.seed}" for one, _ in measures)
        seconds = " and ".join(f"{row['step_seconds']:.4g}" for _, row in measures)
        alone = f" (not of two runs: {reason})" if reason else ""
        return f"plans have the rates of {names}, which update in {seconds} s{alone}"
    return f"no plans: {reason}"


def _candidates(done: Sequence[Done]) -> Iterator[list[Done]]:
    """Yield the runs that may be the measures, best first. They have as few ranks as any run, and one precision."""
    first = min((one.run.cell for one, _ in done), key=lambda cell: (cell.ranks, cell.config.precision))
    same: dict[float, list[Done]] = {}
    for one, row in done:
        cell = one.run.cell
        if (cell.ranks, cell.config.precision) == (first.ranks, first.config.precision):
            same.setdefault(cell.plan.step.total, []).append((one, row))
    medians = [_middle(sorted(same[total], key=lambda pair: pair[1]["step_seconds"])) for total in sorted(same)]
    if len(medians) >= FEWEST_FOR_TWO:
        yield [medians[0], medians[-1]]
    yield [_middle(medians)]


def _middle(pairs: Sequence[Done]) -> Done:
    return pairs[len(pairs) // 2]


def _calibrated(measures: Sequence[Done]) -> Calibration:
    cell = measures[0][0].run.cell
    return calibrate([one.run.path for one, _ in measures], cell.recipe, cell.config, cell.cluster)


def _add(progress: Sequence[Progress], rows: Sequence[Row], found: Calibration) -> None:
    seconds: dict[str, float] = {}
    for one, row in zip(progress, rows, strict=True):
        cell = one.run.cell
        if cell.name not in seconds:
            cluster = replace(cell.cluster, device=found.cluster.device)
            seconds[cell.name] = RunPlan(cell.recipe, cell.config, cluster).step.total
        row[STEP] = seconds[cell.name]
