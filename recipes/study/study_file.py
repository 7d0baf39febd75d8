"""The study file: one JSON object that says which runs a study has, what is measured, and where it is kept. Torch-free."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.catalog import RECIPES
from recipes.check import named_recipe
from recipes.config import Recipe
from recipes.ds_config import find_ds_config, load_ds_config
from recipes.errors import ConfigError
from recipes.plan.links import Cluster
from recipes.settings import settable
from recipes.study.rules import BY_DEFAULT, RULES
from recipes.suggestions import did_you_mean
from recipes.train.probe import METRIC

NEEDED = ("name", "base", "axes")
OPTIONAL = ("deepspeed_config", "data", "rules", "set", "seeds", "metric", "out", "cluster", "fit")
PROBE = f"{METRIC}."
FLOPS, TOKENS, RANKS, DS_CONFIG = "flops", "tokens", "ranks", "deepspeed_config"
BUDGETS = (FLOPS, TOKENS)
"""Axes that give the length of a run by what it costs: run.max_steps follows."""
DS_KEY = "ds_config."
"""Prefix of axes that change a key of the ds_config, such as ds_config.train_micro_batch_size_per_gpu."""
SPECIAL = (*BUDGETS, RANKS, DS_CONFIG)
"""Names that are no setting of the recipe."""
FIT_KEYS = ("held_out", "size", "where")
"""Keys of the section `fit`."""
SHIPPED_STUDIES = Path(__file__).resolve().parents[1] / "studies"


@dataclass(frozen=True)
class Study:
    """The content of a study file, checked."""

    path: Path
    name: str
    base: Recipe
    """The recipe that the cells change."""
    base_name: str
    """The value of --recipe."""
    axes: Mapping[str, tuple[Any, ...]]
    """Name -> values. The cells are all combinations. A value that is an object changes several settings together."""
    out: Path
    deepspeed_config: str = "zero3_cpu"
    data: str | None = None
    rules: Mapping[str, float | None] = field(default_factory=lambda: dict(BY_DEFAULT))
    """Names of the rules that are on -> the exponent of the rule, None if it has none."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every cell (the key `set`)."""
    seeds: tuple[int, ...] = (1,)
    metric: str = METRIC
    """A key of metrics.jsonl; or probe.TASK, the score of that probe after the last update."""
    cluster: str | None = None
    """The cluster that the cells are planned for, as launch/plan.py takes it. None: this machine's CPU."""
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
    """Read a study file, and check all that it says by itself. `path`: as find_study() takes it. Raises: ConfigError with the file, the key
    and the remedy."""
    path = find_study(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {shipped_names()}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); name a study file, which is JSON") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, must be an object with {', '.join(NEEDED)}")
    content = {key: value for key, value in content.items() if not key.startswith(("_", "//"))}
    _check_keys(path, content)
    base = named_recipe(content["base"], {name: make for recipes in RECIPES.values() for name, make in recipes.items()})
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
    _check_names(study)
    return study


def shipped_names() -> str:
    """Return the names of the shipped studies, as the end of a message."""
    return f"the shipped ones are in recipes/studies/: {', '.join(sorted(path.stem for path in SHIPPED_STUDIES.glob('*.json')))}"


TYPES: Mapping[str, tuple[type, str]] = {
    **dict.fromkeys(("name", "base", "deepspeed_config", "data", "metric", "out", "cluster"), (str, "a text")),
    **dict.fromkeys(("axes", "set", "fit"), (dict, "an object")),
}


def _check_keys(path: Path, content: Mapping[str, Any]) -> None:
    known = (*NEEDED, *OPTIONAL)
    for key, value in content.items():
        if key not in known:
            raise ConfigError(f"{path}: {key!r:.40} is no key of a study; {did_you_mean(key, known)}known are {', '.join(known)}")
        kind, words = TYPES.get(key, (object, ""))
        if not isinstance(value, kind):
            raise ConfigError(f"{path}: {key} is {value!r:.60}, must be {words}")
    for key in NEEDED:
        if not content.get(key):
            raise ConfigError(f'{path}: no "{key}"; a study has {", ".join(NEEDED)}, and may have {", ".join(OPTIONAL)}')
    if not all(letter.isalnum() or letter in "_-." for letter in content["name"]) or content["name"].startswith("."):
        raise ConfigError(f"{path}: name is {content['name']!r}, must be letters, digits, _, - and . for it names folders and jobs")


def _axes(path: Path, axes: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    for name, values in axes.items():
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
    changes = dict.fromkeys(given, True) if isinstance(given, list) else given
    for name, value in changes.items():
        if name not in RULES:
            raise ConfigError(f"{path}: rules: there is no rule {name!r:.40}; {did_you_mean(str(name), RULES)}known are {', '.join(RULES)}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (isinstance(value, bool) or (is_number and RULES[name].exponent is not None)):
            kinds = "true, false or an exponent" if RULES[name].exponent is not None else "true or false"
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


def _check_names(study: Study) -> None:
    """Check names of settings, ds_configs and options. Raises: ConfigError."""
    known, values = settable(study.base), all_values(study)
    for name in values:
        if name not in (*known, *SPECIAL) and not name.startswith(DS_KEY):
            near = did_you_mean(name, (*known, *SPECIAL))
            place = "set" if name in study.settings else "axes"
            more = f"beside settings there are {', '.join(SPECIAL)} and {DS_KEY}KEY"
            raise ConfigError(f"{study.path}: {place}: recipe {study.base_name} has no {name!r:.60}; {near}{more}")
    if "run.seed" in values:
        raise ConfigError(
            f'{study.path}: run.seed is set; write "seeds": [1, 2, 3], so that the runs of a cell are compared with each other'
        )
    lengths = [name for name in ("run.max_steps", *BUDGETS) if name in values]
    if len(lengths) > 1:
        raise ConfigError(f"{study.path}: {' and '.join(lengths)} both say how long a run is; leave one out")
    for name in (study.deepspeed_config, *values.get(DS_CONFIG, ())):
        load_ds_config(find_ds_config(Path(str(name))))
    for count in values.get(RANKS, ()):
        if type(count) is not int or count < 1:
            raise ConfigError(f"{study.path}: ranks has {count!r:.40}, must be whole numbers from 1")
    for name in BUDGETS:
        if bad := [value for value in values.get(name, ()) if not isinstance(value, int | float) or value <= 0]:
            raise ConfigError(f"{study.path}: {name} has {bad[0]!r:.40}, must be numbers above 0")
    if study.cluster is not None:
        Cluster.of_text(study.cluster)
    for key in study.fit:
        if key not in FIT_KEYS:
            raise ConfigError(f"{study.path}: fit: {key!r:.40} is no key; known are {', '.join(FIT_KEYS)}")


def all_values(study: Study) -> dict[str, list[Any]]:
    """Return every name that the axes, their objects, and `set` give a value -> the values."""
    found: dict[str, list[Any]] = {name: [value] for name, value in study.settings.items()}
    for axis, values in study.axes.items():
        for value in values:
            for name, one in unfolded(axis, value).items():
                found.setdefault(name, []).append(one)
    return found


def unfolded(axis: str, value: Any) -> dict[str, Any]:
    """Return the names and values that one value of an axis stands for: itself, or those inside if it is an object."""
    return {name: one for name, one in value.items() if name != "name"} if isinstance(value, dict) else {axis: value}
