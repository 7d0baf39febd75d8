"""What the keys of a study file mean: whether settings, metric and options exist, and whether they contradict each other. Torch-free."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.ds_config import find_ds_config, load_ds_config
from recipes.errors import ConfigError
from recipes.plan.links import Cluster
from recipes.settings import settable
from recipes.study.study_file import (
    BUDGETS,
    DS_CONFIG,
    DS_KEY,
    PROBE,
    RANKS,
    SIZES,
    SPECIAL,
    Study,
    all_values,
    is_number,
    naming,
    short_names,
    unfolded,
)
from recipes.suggestions import did_you_mean
from recipes.train.probe import METRIC

PROBE_TASK, PROBE_STEPS = "eval.probe_task", "eval.probe_steps"
TASKS = ("cloze", "classify", "reference")
METRICS = (
    *("loss", "grad_norm", "lr", "ema_decay", "target_std", "pred_std", "masked_fraction", "skipped_steps"),
    *("step_seconds", "data_wait_seconds", "tokens_per_second", "mfu", "peak_memory_bytes"),
    *("eval_loss", "explained_variance", "target_rank", "neighbour_correlation", "frontend_std", METRIC),
)
"""Keys of metrics.jsonl in pre-training with data2vec."""
MOST_BUDGET = 1e30
FIT_KEYS: Mapping[str, tuple[type, str]] = {
    "held_out": (bool, "true or false"),
    "size": (str, "the name of a column"),
    "where": (dict, "an object: axis -> value"),
}
"""Keys of the section `fit` -> type."""


def check_study(study: Study) -> None:
    """Check names of settings, ds_configs, metric and options. Raises: ConfigError with the file, the key and the remedy."""
    known, values = settable(study.base), all_values(study)
    for name in values:
        if name not in (*known, *SPECIAL) and not name.startswith(DS_KEY):
            near = did_you_mean(name, (*known, *SPECIAL))
            place = "set" if name in study.settings else "axes"
            more = f"beside settings there are {', '.join(SPECIAL)} and {DS_KEY}KEY"
            raise ConfigError(f"{study.path}: {place}: recipe {study.base_name} has no {name!r:.60}; {near}{more}")
    _check_owners(study)
    if "run.seed" in values:
        raise ConfigError(
            f'{study.path}: run.seed is set; write "seeds": [1, 2, 3], so that the runs of a cell are compared with each other'
        )
    lengths = [name for name in ("run.max_steps", *BUDGETS) if name in values]
    if len(lengths) > 1:
        raise ConfigError(f"{study.path}: {' and '.join(lengths)} both say how long a run is; leave one out")
    with naming(study.path):
        for name in (study.deepspeed_config, *values.get(DS_CONFIG, ())):
            load_ds_config(find_ds_config(Path(str(name))))
        if study.cluster is not None:
            Cluster.of_text(study.cluster)
    for count in values.get(RANKS, ()):
        if type(count) is not int or count < 1:
            raise ConfigError(f"{study.path}: ranks has {count!r:.40}, must be whole numbers from 1")
    for name in BUDGETS:
        if bad := [value for value in values.get(name, ()) if not is_number(value) or not 0 < value <= MOST_BUDGET]:
            raise ConfigError(f"{study.path}: {name} has {bad[0]!r:.40}, must be finite numbers above 0, at most {MOST_BUDGET:g}")
    _check_metric(study, values)
    _check_fit(study)


def _check_metric(study: Study, values: Mapping[str, Any]) -> None:
    """Check that the runs will have the metric: the mistake would be found after the training. Raises: ConfigError."""
    task, tasks = study.metric.removeprefix(PROBE), ", ".join(f"{PROBE}{task}" for task in TASKS)
    if study.metric.startswith(PROBE) and task not in TASKS:
        raise ConfigError(
            f"{study.path}: metric is {study.metric!r:.40}; {did_you_mean(task, TASKS)}there are probe.{', probe.'.join(TASKS)}"
        )
    is_ours = study.base.objective.kind == "data2vec"
    if is_ours and study.metric_key not in METRICS:
        near = did_you_mean(study.metric, METRICS)
        raise ConfigError(f"{study.path}: metric is {study.metric!r:.40}; {near}there are {', '.join(METRICS)}, {tasks}")
    if study.metric_key == METRIC and 0 in values.get(PROBE_STEPS, ()):
        raise ConfigError(f"{study.path}: metric {study.metric} needs a probe, and {PROBE_STEPS} is 0; take it out")


def _check_fit(study: Study) -> None:
    for key, value in study.fit.items():
        if key not in FIT_KEYS:
            raise ConfigError(f"{study.path}: fit: {key!r:.40} is no key; known are {', '.join(FIT_KEYS)}")
        kind, words = FIT_KEYS[key]
        if not isinstance(value, kind):
            raise ConfigError(f"{study.path}: fit: {key} is {value!r:.40}, must be {words}")
    size = study.fit.get("size", SIZES[0])
    if size not in SIZES:
        raise ConfigError(f"{study.path}: fit: size is {size!r:.40}; {did_you_mean(size, SIZES)}known are {', '.join(SIZES)}")
    for axis in study.fit.get("where", {}):
        if axis not in (*study.axes, *short_names(study.axes).values()):
            raise ConfigError(f"{study.path}: fit: where: {axis!r:.40} is no axis; known are {', '.join(study.axes)}")


def _check_owners(study: Study) -> None:
    """Check that each setting has its values from one place. Raises: ConfigError."""
    owners: dict[str, str] = dict.fromkeys(study.settings, "set")
    if study.metric.startswith(PROBE):
        owners[PROBE_TASK] = "metric"
    for axis, values in study.axes.items():
        for name in {name for value in values for name in unfolded(axis, value)}:
            if name in owners:
                raise ConfigError(f"{study.path}: both {owners[name]} and the axis {axis} set {name}; leave it to one of them")
            owners[name] = f"the axis {axis}"
    if owners.get(PROBE_TASK) == "set" and study.metric.startswith(PROBE):
        raise ConfigError(f"{study.path}: metric {study.metric} sets {PROBE_TASK}; take it out of set")
