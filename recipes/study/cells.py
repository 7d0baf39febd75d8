"""The cells of a study: every combination of the values of its axes, each with its recipe and its plan. A cell has one run per seed.
Torch-free."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from recipes.check import check_recipe
from recipes.config import Recipe
from recipes.ds_config import EngineConfig, find_ds_config, load_ds_config
from recipes.errors import ConfigError
from recipes.finetune.probe_source import FrozenFeatures
from recipes.plan.devices import CPU
from recipes.plan.flops import sample_flops
from recipes.plan.links import Cluster
from recipes.planner.command import asked_plan
from recipes.planner.run_plan import RunPlan
from recipes.settings import apply_overrides, check_bounds, dotted, recipe_to_dict, settable, with_values
from recipes.study.rules import SIZE_RULES, apply_rules
from recipes.study.study_checks import PROBE_STEPS, PROBE_TASK
from recipes.study.study_file import DS_CONFIG, DS_KEY, FLOPS, PROBE, RANKS, SPECIAL, TOKENS, Study, is_number, short_names, unfolded
from recipes.train.probe import METRIC
from recipes.values import text_of_value

FEWEST_UPDATES = 10
"""A budget that pays for fewer updates than this is refused: warm-up and rows would be rounded away."""
PROBES = 4
"""Probes of a run whose metric is that of a probe, the last one after the last update."""


@dataclass(frozen=True)
class Cell:
    """One combination of values: what its runs train, and how."""

    name: str
    values: Mapping[str, Any]
    """Axis -> the value as the report shows it."""
    recipe: Recipe
    settings: Mapping[str, Any]
    """Dotted name -> value of all that differs from the base recipe. --set of the cell's runs."""
    derived: Mapping[str, Sequence[str]]
    """Dotted name of a setting -> the rules that it follows from."""
    ds_config: Path
    """The ds_config before changes."""
    ds_changes: Mapping[str, Any]
    """Dotted key of the ds_config -> the value that the cell gives it."""
    ranks: int
    cluster: Cluster
    budget_flops: float | None = None
    """The budget that the study gives the cell's runs, if it is in FLOPs."""
    refused: str = ""
    """Why the cell cannot run; "" if it can."""

    @cached_property
    def plan(self) -> RunPlan:
        """The plan of the cell's runs. Raises: ConfigError if they do not fit."""
        return asked_plan(self.recipe, self.ds_content, str(self.ds_config), self.cluster)

    @property
    def ds_content(self) -> dict[str, Any]:
        """The content of the ds_config, with the cell's changes."""
        content = load_ds_config(self.ds_config)
        for key, value in self.ds_changes.items():
            *outer, last = key.split(".")
            section = content
            for name in outer:
                if not isinstance(section.setdefault(name, {}), dict):
                    section[name] = {}
                section = section[name]
            section[last] = value
        return content

    @property
    def config(self) -> EngineConfig:
        """The completed ds_config. Raises: ConfigError."""
        return self.plan.config

    @property
    def flops(self) -> float:
        """Model FLOPs of a run."""
        run = self.recipe.run
        return sum(sample_flops(self.recipe).values()) * run.global_batch_size * run.max_steps

    @property
    def tokens(self) -> int:
        """Tokens of a run, if every sample is as long as the recipe allows."""
        run = self.recipe.run
        return run.max_steps * run.global_batch_size * self.recipe.frontend.tokens_per_sample(self.recipe.data.longest_sample)


def cells_of(study: Study) -> list[Cell]:
    """Return the cells of a study. Those that cannot run have the reason. Raises: ConfigError if two cells have the same name, a value has
    the wrong type, or no cell can run."""
    names = short_names(study.axes)
    cells = [_cell(study, names, dict(zip(study.axes, values, strict=True))) for values in product(*study.axes.values())]
    name, count = Counter(cell.name for cell in cells).most_common(1)[0]
    if count > 1:
        raise ConfigError(f'{study.path}: {count} cells have the name {name}; take out values that stand twice, or give objects a "name"')
    cells = [_planned(cell) for cell in cells]
    if all(cell.refused for cell in cells):
        raise ConfigError(f"{study.path}: none of the {len(cells)} cells can run; {cells[0].name}: {cells[0].refused}")
    return cells


def left_out_lines(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield a line for each cell that cannot run, with the reason."""
    for cell in cells:
        if cell.refused:
            yield f"{cell.name}: left out, {cell.refused}"


def _cell(study: Study, names: Mapping[str, str], values: Mapping[str, Any]) -> Cell:
    given = dict(study.settings)
    for axis, value in values.items():
        given |= unfolded(axis, value)
    special = {name: given.pop(name) for name in SPECIAL if name in given}
    ds_changes = {name.removeprefix(DS_KEY): given.pop(name) for name in list(given) if name.startswith(DS_KEY)}
    if study.metric.startswith(PROBE):
        given[PROBE_TASK] = study.metric.removeprefix(PROBE)
    recipe, derived, refused = _recipe(study, given, special)
    cluster, ranks, too_few = _cluster(study.cluster, special.get(RANKS))
    shown = {names[axis]: _shown(value) for axis, value in values.items()}
    return Cell(
        name="_".join(f"{axis}-{_in_a_name(value)}" for axis, value in shown.items()),
        values=shown,
        recipe=recipe,
        settings=dict(_changes(study.base, recipe)),
        derived=derived,
        ds_config=find_ds_config(Path(str(special.get(DS_CONFIG, study.deepspeed_config)))),
        ds_changes=ds_changes,
        ranks=ranks,
        cluster=cluster,
        budget_flops=special.get(FLOPS),
        refused=refused or too_few,
    )


def _recipe(study: Study, given: Mapping[str, Any], special: Mapping[str, Any]) -> tuple[Recipe, dict[str, list[str]], str]:
    """Return the recipe with the settings `given` and all that follows, dotted name -> rules of what follows, and why it cannot run."""
    try:
        recipe = apply_overrides(study.base, [f"{name}={text_of_value(value)}" for name, value in given.items()])
    except ConfigError as error:
        raise ConfigError(f"{study.path}: {str(error).replace('--set ', '', 1)}") from None
    try:
        check_bounds(recipe)
    except ConfigError as error:
        return recipe, {}, str(error)
    before = {name: exponent for name, exponent in study.rules.items() if name in SIZE_RULES}
    after = {name: exponent for name, exponent in study.rules.items() if name not in SIZE_RULES}
    recipe, derived = apply_rules(recipe, study.base, before, [*given])
    recipe, refused = _with_length(recipe, special)
    recipe, more = apply_rules(recipe, study.base, after, [*given])
    if study.metric_key == METRIC and PROBE_STEPS not in given:
        recipe = with_values(recipe, {PROBE_STEPS: -(-recipe.run.max_steps // PROBES)})
    return recipe, derived | more, refused


def _with_length(recipe: Recipe, values: Mapping[str, Any]) -> tuple[Recipe, str]:
    """Return the recipe with the number of updates that the cell's budget pays for, and why it cannot run ("" if it can)."""
    if FLOPS in values:
        budget, unit, cost = values[FLOPS], "FLOPs", sum(sample_flops(recipe).values())
    elif TOKENS in values:
        budget, unit, cost = values[TOKENS], "tokens", float(recipe.frontend.tokens_per_sample(recipe.data.longest_sample))
    else:
        return recipe, ""
    update = cost * recipe.run.global_batch_size
    steps = round(budget / update)
    recipe = replace(recipe, run=replace(recipe.run, max_steps=max(1, steps)))
    if steps < FEWEST_UPDATES:
        return recipe, f"{budget:g} {unit} pay for {budget / update:.1f} updates of {update:.3g}, fewer than {FEWEST_UPDATES}; raise them"
    return recipe, ""


def _cluster(text: str | None, ranks: int | None) -> tuple[Cluster, int, str]:
    """Return the part of the described cluster on which `ranks` ranks run (None: all of it, on a CPU one), their number, and why they
    cannot run. One node stands for as many like it as are needed."""
    cluster = Cluster(1, ranks or 1, CPU) if text is None else Cluster.of_text(text)
    ranks = ranks or cluster.num_ranks
    if ranks <= cluster.gpus:
        return replace(cluster, nodes=1, gpus=ranks), ranks, ""
    nodes = -(-ranks // cluster.gpus)
    why = f"{ranks} ranks need {nodes} nodes of {cluster.gpus}, the cluster has {cluster.nodes}" if 1 < cluster.nodes < nodes else ""
    return replace(cluster, nodes=nodes), ranks, why


def _planned(cell: Cell) -> Cell:
    """Return the cell, with the reason if its recipe contradicts itself or does not fit its device."""
    if cell.refused:
        return cell
    if cell.ranks != cell.cluster.num_ranks:
        reason = f"{cell.ranks} ranks are no multiple of the {cell.cluster.gpus} devices of a node; change ranks or gpus of the cluster"
        return replace(cell, refused=reason)
    try:
        check_recipe(cell.recipe)
        FrozenFeatures().check(cell.recipe)
        cell.cluster.teraflops(cell.plan.config.precision)  # raises if the device has no peak; the plan is kept
    except ConfigError as error:
        return replace(cell, refused=str(error))
    return cell


def _changes(base: Recipe, recipe: Recipe) -> Iterator[tuple[str, Any]]:
    before, after, known = dotted(recipe_to_dict(base)), dotted(recipe_to_dict(recipe)), set(settable(recipe))
    for name, value in after.items():
        if name in known and before.get(name) != value:
            yield name, value


def _shown(value: Any) -> Any:
    """Return the value of an axis as tables show it: a number or a text."""
    if isinstance(value, dict):
        name = value.get("name")
        if isinstance(name, int | float | str) and str(name):
            return name
        return "x".join(f"{one:g}" if is_number(one) else str(one) for key, one in value.items() if key != "name")
    return value if isinstance(value, int | float | str) else text_of_value(value)


def _in_a_name(value: Any) -> str:
    if isinstance(value, float) and not isinstance(value, bool):
        value = f"{value:g}".replace("e+", "e")
    if isinstance(value, str) and value.endswith(".json"):
        value = Path(value).stem
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^\w.+-]+", "-", text).rstrip("-")
