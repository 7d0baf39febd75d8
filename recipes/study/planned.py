"""What the planner says about the runs of a study, with rates measured by one of them. Torch-free.

The run in the middle of the sizes is the measure; its own row cannot contradict the plan, so the table marks it."""

from collections.abc import Sequence
from dataclasses import replace

from recipes.errors import ConfigError
from recipes.planner.calibrate import calibrate
from recipes.planner.run_plan import RunPlan
from recipes.study.log_sample import Row
from recipes.study.progress import Progress
from recipes.study.study_file import Study

STEP, MEMORY, MEASURE = "planned_step_seconds", "planned_memory_bytes", "is_measure"


def add_plans(study: Study, progress: Sequence[Progress], rows: Sequence[Row]) -> str:
    """Add to each row the planned time of an update and the planned peak memory, None where there is no plan. Return a line on how the
    plans were made, or why there are none.

    On a CPU, the memory that is measured is that of the whole process. What the libraries take is not planned: it is that of the measure.
    """
    for row in rows:
        row.update({STEP: None, MEMORY: None, MEASURE: False})
    pairs = [(one, row) for one, row in zip(progress, rows, strict=True) if row["state"] == "done" and row["step_seconds"]]
    if not pairs:
        return "no plans: no run is done"
    pairs.sort(key=lambda pair: (pair[0].run.cell.ranks, pair[1]["parameters"], pair[1]["cell"], pair[1]["seed"]))
    ranks = pairs[0][0].run.cell.ranks
    candidates = [pair for pair in pairs if pair[0].run.cell.ranks == ranks]
    measure, measured = candidates[len(candidates) // 2]
    cell = measure.run.cell
    try:
        found = calibrate(measure.run.path, cell.recipe, cell.config, cell.cluster)
    except ConfigError as error:
        return f"no plans: {error.without_remedy}"
    measured[MEASURE] = True
    on_cpu = cell.cluster.device.is_shared
    libraries = measured["peak_memory_bytes"] - cell.plan.memory.worst.total if on_cpu and measured["peak_memory_bytes"] else 0
    for one, row in zip(progress, rows, strict=True):
        own = one.run.cell
        cluster = replace(own.cluster, device=found.cluster.device)
        try:
            plan = RunPlan(own.recipe, own.config, cluster, tokens_share=found.tokens_share)
            row[STEP], row[MEMORY] = plan.step.total, plan.memory.worst.total + libraries
        except ConfigError:
            continue
    return f"plans have the rates of {cell.name} seed {measure.run.seed}, which updates at {measured['step_seconds']:.4g} s"
