"""The study file: one JSON object that says which runs a study has, what is measured, and where it is kept. Torch-free."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.catalog import RECIPES
from recipes.check import named_recipe
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.plan.links import Cluster
from recipes.study.rules import BY_DEFAULT, RULES
from recipes.suggestions import did_you_mean
from recipes.system.json_object import read_json_object
from recipes.train.probe import METRIC

NEEDED = ("name", "base", "axes")
OPTIONAL = ("deepspeed_config", "data", "rules", "set", "seeds", "metric", "out", "cluster", "fit")
PROBE = f"{METRIC}."
FLOPS, TOKENS, RANKS, DS_CONFIG = "flops", "tokens", "ranks", "deepspeed_config"
BUDGETS = (FLOPS, TOKENS)
"""Axes that give the length of a run by what it costs: run.max_steps follows."""
CPU_DS_CONFIG, GPU_DS_CONFIG = "zero3_cpu", "zero3_bf16"
"""The ds_config of a study that names none, without a cluster of GPUs and with one. It does not depend on the machine."""
SIZES = ("block_parameters", "parameters", "trunk_parameters", "flops_per_token")
"""Columns that may be the size of a network. The first one is the default: the blocks alone, as Kaplan et al. 2020 count."""
MOST_EXPONENT = 4
"""Largest exponent of a rule. Beyond it, numbers overflow."""
DS_KEY = "ds_config."
"""Prefix of axes that change a key of the ds_config, such as ds_config.train_micro_batch_size_per_gpu."""
SPECIAL = (*BUDGETS, RANKS, DS_CONFIG)
"""Names that are no setting of the recipe."""
TYPES: Mapping[str, tuple[type, str]] = {
    **dict.fromkeys(("name", "base", "deepspeed_config", "data", "metric", "out", "cluster"), (str, "a text")),
    **dict.fromkeys(("axes", "set", "fit"), (dict, "an object")),
}
"""Key of a study file -> its type, and the type in words."""
SHIPPED_STUDIES = Path(__file__).resolve().parents[1] / "studies"


@dataclass(frozen=True)
class Study:
    """The content of a study file."""

    path: Path
    name: str
    base: Recipe
    """The recipe that the cells change."""
    base_name: str
    """The value of --recipe."""
    axes: Mapping[str, tuple[Any, ...]]
    """Name -> values. The cells are all combinations. A value that is an object changes several settings together."""
    out: Path
    deepspeed_config: str = CPU_DS_CONFIG
    data: str | None = None
    rules: Mapping[str, float | None] = field(default_factory=lambda: dict(BY_DEFAULT))
    """Names of the rules that are on -> the exponent of the rule, None if it has none."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every cell (the key `set`)."""
    seeds: tuple[int, ...] = (1,)
    metric: str = METRIC
    """A key of metrics.jsonl; or probe.TASK, the score of that probe after the last update."""
    cluster: str | None = None
    """The cluster that the cells are planned for, as launch/plan.py takes it. None: a CPU."""
    fit: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metric_key(self) -> str:
        """The key of metrics.jsonl that has the metric."""
        return METRIC if self.metric.startswith(PROBE) else self.metric

    @property
    def cells_folder(self) -> Path:
        """The folder that has one folder for each cell."""
        return self.out / "cells"


def find_study(path: Path) -> Path:
    """Return the file that the command line names: `path` itself, or for a bare name such as text_isoflop one of recipes/studies/."""
    shipped = SHIPPED_STUDIES / f"{path.name.removesuffix('.json')}.json"
    return shipped if path.parent == Path() and not path.is_file() and shipped.is_file() else path


def read_study(path: Path) -> Study:
    """Read a study file, and check the type of each key; study_checks.py checks what they mean. `path`: as find_study() takes it. Raises:
    ConfigError with the file, the key and the remedy."""
    path = find_study(path)
    content = read_json_object(path, flag="", what="a study file", where=shipped_names())
    _check_keys(path, content)
    with naming(path):
        base = named_recipe(content["base"], {name: make for recipes in RECIPES.values() for name, make in recipes.items()})
    if "cluster" in content and "deepspeed_config" not in content:
        with naming(path):
            is_cpu = Cluster.of_text(content["cluster"]).device.is_shared
        content["deepspeed_config"] = CPU_DS_CONFIG if is_cpu else GPU_DS_CONFIG
    rest = {key: content[key] for key in ("deepspeed_config", "data", "metric", "cluster", "fit") if key in content}
    study = Study(
        path,
        content["name"],
        base,
        content["base"],
        _axes(path, content["axes"]),
        Path(content.get("out", f"runs/studies/{content['name']}")).expanduser(),
        rules=_rules(path, content.get("rules")),
        settings=content.get("set", {}),
        seeds=_seeds(path, content.get("seeds", [1])),
        **rest,
    )
    return study


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the study file in errors of this block, which begin with the flag of another command."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{path}: {str(error).removeprefix('--')}") from None


def shipped_names() -> str:
    """Return the names of the shipped studies, as the end of a message."""
    return f"the shipped ones are in recipes/studies/: {', '.join(sorted(path.stem for path in SHIPPED_STUDIES.glob('*.json')))}"


def _check_keys(path: Path, content: Mapping[str, Any]) -> None:
    known = (*NEEDED, *OPTIONAL)
    for key, value in content.items():
        if key not in known:
            raise ConfigError(f"{path}: {key!r:.40} is no key of a study; {did_you_mean(key, known)}known are {', '.join(known)}")
        kind, words = TYPES.get(key, (object, ""))
        if not isinstance(value, kind):
            raise ConfigError(f"{path}: {key} is {value!r:.60}, must be {words}")
        if value == "":
            raise ConfigError(f"{path}: {key} is empty; give it a value or take it out")
    for key in NEEDED:
        if not content.get(key):
            raise ConfigError(f'{path}: no "{key}"; a study has {", ".join(NEEDED)}, and may have {", ".join(OPTIONAL)}')
    if not all(letter.isalnum() or letter in "_-." for letter in content["name"]) or content["name"].startswith("."):
        raise ConfigError(f"{path}: name is {content['name']!r}, must be letters, digits, _, - and . for it names folders and jobs")


def _axes(path: Path, axes: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    for name, values in axes.items():
        if not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", name):
            raise ConfigError(f"{path}: axes: {name!r:.40} must be letters, digits, _ and dots, for it names folders; call it otherwise")
        if not isinstance(values, list):
            raise ConfigError(f'{path}: axes: {name} is {values!r:.60}, must be a list of values; write "{name}": [{json.dumps(values)}]')
        if not values:
            raise ConfigError(f"{path}: axes: {name} is empty, so there are no cells; give it a value or take the axis out")
    return {name: tuple(values) for name, values in axes.items()}


def _rules(path: Path, given: Any) -> dict[str, float | None]:
    """Return the rules that are on, in the order in which they apply. `given`: null, a list of names that are all that is on, or an object
    that changes what is on by default."""
    if given is None:
        return dict(BY_DEFAULT)
    if not isinstance(given, list | dict):
        raise ConfigError(f"{path}: rules is {given!r:.60}, must be a list of names or an object; known are {', '.join(RULES)}")
    changes = {str(name): True for name in given} if isinstance(given, list) else given
    for name, value in changes.items():
        if name not in RULES:
            raise ConfigError(f"{path}: rules: there is no rule {name!r:.40}; {did_you_mean(str(name), RULES)}known are {', '.join(RULES)}")
        is_exponent = is_number(value) and abs(value) <= MOST_EXPONENT and RULES[name].exponent is not None
        if not (isinstance(value, bool) or is_exponent):
            kinds = (
                f"true, false or an exponent from -{MOST_EXPONENT} to {MOST_EXPONENT}"
                if RULES[name].exponent is not None
                else "true or false"
            )
            raise ConfigError(f"{path}: rules: {name} is {value!r:.40}, must be {kinds}")
    on: dict[str, Any] = {} if isinstance(given, list) else dict(BY_DEFAULT)
    for name, value in changes.items():
        on[name] = RULES[name].exponent if value is True else value
    return {name: on[name] for name in RULES if name in on and on[name] is not False}


def _seeds(path: Path, seeds: Any) -> tuple[int, ...]:
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ConfigError(f"{path}: seeds is {seeds!r:.60}, must be a list of whole numbers from 0, such as [1, 2]")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{path}: seeds is {seeds!r:.60}, and one stands twice; take it out")
    return tuple(seeds)


def is_number(value: Any) -> bool:
    """True if the value is a finite number. JSON has true and false, and Python reads NaN and Infinity in it."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def all_values(study: Study) -> dict[str, list[Any]]:
    """Return every name that the axes, their objects, and `set` give a value -> the values."""
    found: dict[str, list[Any]] = {name: [value] for name, value in study.settings.items()}
    for axis, values in study.axes.items():
        for value in values:
            for name, one in unfolded(axis, value).items():
                found.setdefault(name, []).append(one)
    return found


def short_names(axes: Collection[str]) -> dict[str, str]:
    """Return axis -> the name that cells and tables show: its last part, unless two axes share it."""
    last = Counter(axis.rpartition(".")[2] for axis in axes)
    return {axis: short if last[short := axis.rpartition(".")[2]] == 1 else axis for axis in axes}


def axis_names(axis: str, values: Sequence[Any]) -> set[str]:
    """Return the names that an axis changes: its own, or those inside of its objects."""
    return {name for value in values for name in unfolded(axis, value)}


def unfolded(axis: str, value: Any) -> dict[str, Any]:
    """Return the names and values that one value of an axis stands for: itself, or those inside if it is an object."""
    return {name: one for name, one in value.items() if name != "name"} if isinstance(value, dict) else {axis: value}
