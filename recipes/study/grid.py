"""The lines of the verb grid: every cell with its numbers and its plan, and the rules that made them. Torch-free."""

from collections import Counter
from collections.abc import Iterator, Sequence

from recipes.plan.memory import GIB
from recipes.plan.size import num_parameters
from recipes.planner.show import in_days, in_seconds
from recipes.study.cells import Cell, left_out_lines
from recipes.study.progress import Progress, summary_line
from recipes.study.rules import RULES
from recipes.study.study_file import Study
from recipes.study.wording import in_number

DAY = 86400.0
COLUMNS = ("cell", "parameters", "FLOPs", "updates", "batch", "lr", "update", "run", "memory", "runs")


def grid_lines(study: Study, cells: Sequence[Cell], progress: Sequence[Progress]) -> Iterator[str]:
    """Yield a table of the cells, then the rules, then what is left to do. Raises: ConfigError."""
    size = f"{in_number(len(cells), 'cell')} x {in_number(len(study.seeds), 'seed')}"
    yield f"study {study.name}: {size} of {study.base_name}, metric {study.metric}, in {study.out}"
    rows = [COLUMNS, *(_row(cell, progress) for cell in cells if not cell.refused)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        first, *others = (
            text.rjust(width) if column else text.ljust(width) for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join([first, *others]).rstrip()
    yield from left_out_lines(cells)
    yield from rule_lines(study, cells)
    going = [cell for cell in cells if not cell.refused]
    seconds = sum(cell.plan.training_seconds for cell in going) * len(study.seeds)
    flops = sum(cell.flops for cell in going) * len(study.seeds)
    yield f"together {flops:.3g} FLOPs, {in_days(seconds / DAY)} of one run after the other by plan (without start-up)"
    yield summary_line(progress)


def rule_lines(study: Study, cells: Sequence[Cell]) -> Iterator[str]:
    """Yield a line for each rule: on or off, and what it sets in how many cells."""
    for name, rule in RULES.items():
        exponent = study.rules.get(name)
        how = "off" if name not in study.rules else f"x = {exponent:g}" if exponent is not None else "on"
        sets = Counter(setting for cell in cells for setting, own in cell.derived.items() if name in own)
        shown = ", ".join(f"{setting} in {count} of {in_number(len(cells), 'cell')}" for setting, count in sets.items())
        yield f"rule {name} ({how}): {rule.sentence}{f'; sets {shown}' if shown else ''}"


def _row(cell: Cell, progress: Sequence[Progress]) -> tuple[str, ...]:
    run, plan = cell.recipe.run, cell.plan
    states = [one.state.state for one in progress if one.run.cell is cell]
    return (
        cell.name,
        f"{num_parameters(cell.recipe):,}",
        f"{cell.flops:.3g}",
        f"{run.max_steps:,}",
        str(run.global_batch_size),
        f"{cell.recipe.optim.lr:.3g}",
        in_seconds(plan.step.total),
        in_days(plan.training_seconds / DAY),
        f"{plan.memory.worst.total / GIB:.2f} GiB",
        ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)),
    )
