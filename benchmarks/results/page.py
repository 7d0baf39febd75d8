"""The tables of docs/results.md, made from finished cells. A table stands between two marks in the page, `<!-- table: NAME -->` and
`<!-- end -->`; all other lines are written by hand. A cell that is not finished is left empty."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from recipes.errors import ConfigError
from recipes.system.durable import write_text_atomically
from results.arms import Arms, finetune_name
from results.cells import Result
from results.tasks import CLOZE, CONTROL, DATA2VEC, RANDOM

MARK = re.compile(r"<!-- table: (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
Table = Iterator[str]


def write_page(source: Path, page: Path, arms: Arms) -> None:
    """Write the page `source` to `page`, with the tables of the finished cells. Raises: ConfigError for a table that there is not."""
    tables = tables_of(arms)

    def table(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in tables:
            raise ConfigError(f"{source}: table {name}: unknown; there are {', '.join(tables)}")
        return "\n".join([f"<!-- table: {name} -->", *tables[name](), "<!-- end -->"])

    write_text_atomically(page, MARK.sub(table, source.read_text()))


def tables_of(arms: Arms) -> dict[str, Callable[[], Table]]:
    """Return name -> function that yields the lines of a table."""
    modalities = {network.modality: None for network in arms.networks}
    found: dict[str, Callable[[], Table]] = {"cost": lambda: cost(arms), "cloze": lambda: cloze(arms)}
    for modality in modalities:
        found[f"probe-{modality}"] = lambda modality=modality: probes(arms, modality)
        found[f"finetune-{modality}"] = lambda modality=modality: finetuned(arms, modality)
    return found


def rows(header: Sequence[str], lines: Iterator[Sequence[str]]) -> Table:
    """Yield a Markdown table, or that it is not computed yet."""
    first = next(lines, None)
    if first is None:
        yield "Not computed yet."
        return
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for line in (first, *lines):
        yield f"| {' | '.join(line)} |"


def with_error(result: Result | None, name: str = "mean", error: str = "standard_error") -> str:
    """Return a mean and its standard error as text; "" without a result."""
    if result is None or result[name] is None:
        return ""
    value = f"{result[name]:.3f}".removeprefix("0")
    return value + (f" +- {result[error]:.3f}".replace("0.", ".", 1) if result.get(error) is not None else "")


def difference(one: Result | None, other: Result | None) -> str:
    """Return a difference and how many of its standard errors it is; "" if one is missing."""
    if one is None or other is None or None in (one["mean"], other["mean"]):
        return ""
    gap = one["mean"] - other["mean"]
    error = math.hypot(one["standard_error"] or 0, other["standard_error"] or 0)
    return f"{gap:+.3f}" + (f", {abs(gap) / error:.1f} s.e." if error else "")


def cost(arms: Arms) -> Table:
    """Yield what pre-training took."""

    def lines() -> Iterator[Sequence[str]]:
        for network in arms.networks:
            cell = arms.cells.get(f"pretrain-{network.recipe}")
            if cell:
                metrics = cell["metrics"]
                yield network.recipe, f"{metrics['step']:,}", f"{metrics['samples']:,}", f"{cell['seconds'] / 60:.0f}"

    return rows(("recipe", "updates", "samples", "minutes, two runs side by side"), lines())


def cloze(arms: Arms) -> Table:
    """Yield the cloze probes of the text networks, beside those of the same networks at random initialisation."""

    def lines() -> Iterator[Sequence[str]]:
        for text in CLOZE:
            for arm in (DATA2VEC, CONTROL):
                network = arms.network("text", arm)
                cell = arms.cells.get(f"probe-{text}-{network.recipe}") if network else None
                if network and cell:
                    own = with_error(cell), with_error(cell, "random_init", "random_init_error")
                    ratio, majority = f"{cell['mean'] / cell['random_init']:.2f}", f"{cell['majority']:.3f}"[1:]
                    yield text, network.recipe, *own, ratio, majority, f"{cell['num_test']:,}"

    return rows(("text", "network", "pre-trained", "random init", "ratio", "most frequent word", "blanks"), lines())


def probes(arms: Arms, modality: str) -> Table:
    """Yield the linear probes of frozen features."""

    def lines() -> Iterator[Sequence[str]]:
        for task in arms.tasks:
            if (task.modality, task.name) != (modality, "classify"):
                continue
            networks = {arm: arms.network(modality, arm) for arm in (DATA2VEC, CONTROL)}
            found = {arm: arms.cells.get(f"probe-{task.data}-{one.recipe}") if one else None for arm, one in networks.items()}
            own = found[DATA2VEC]
            if own:
                gain = f"{own['mean'] - own['random_init']:+.3f}"
                yield task.data, with_error(own), with_error(found[CONTROL]), with_error(own, "random_init", "random_init_error"), gain

    return rows(("data set", "data2vec", "control", "random init", "gain"), lines())


def finetuned(arms: Arms, modality: str) -> Table:
    """Yield the fine-tuned networks and the best simple baseline, by data set and number of labels."""

    def lines() -> Iterator[Sequence[str]]:
        for task in arms.tasks:
            for budget in task.budgets if task.modality == modality else ():
                found = {arm: arms.cells.get(finetune_name(task, budget, arm)) for arm in arms.arms_of(modality)}
                if found[DATA2VEC] is None and found[RANDOM] is None:
                    continue
                values = [with_error(found.get(arm)) for arm in (DATA2VEC, CONTROL, RANDOM)]
                gap, simple = difference(found[DATA2VEC], found[RANDOM]), with_error(arms.best_baseline(task, budget))
                metric = f"{task.metric}, smaller is better" if task.is_error else task.metric
                yield task.data, metric, str(budget.labels or "all"), *values, gap, simple

    return rows(("data set", "metric", "labels", "data2vec", "control", "random", "data2vec - random", "simple"), lines())
