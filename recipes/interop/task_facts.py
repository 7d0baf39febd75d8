"""What a fine-tuned run has on record about its task: labels, and the values of its metric. Torch-free."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.checkpoint.layout import Manifest
from recipes.interop.stored_run import StoredRun
from recipes.supervised_config import SupervisedConfig

RESULTS, FINE_TUNED = "results.json", "fine-tuned"
"""The file of a run's scores, and the value of `weights` in those of its task. Probes write to the same file."""
SHOWN = 20
"""Most labels that are listed."""


def task_facts(run: StoredRun, manifest: Manifest) -> dict[str, str]:
    """Return name -> value of what is on record about a run's task; {} if the run did not learn from labels."""
    objective: Any = run.recipe.objective
    if not isinstance(objective, SupervisedConfig):
        return {}
    task = run.recipe.finetune.task
    found = {"task": f"{task} ({objective.kind})" if task not in ("", objective.kind) else objective.kind}
    for name in ("labels", "alphabet"):
        values = getattr(objective, name, ())
        found |= {name: listed(values)} if values else {}
    return found | _validation(run, manifest) | _scores(run.run_dir, task)


def listed(values: tuple[str, ...]) -> str:
    """Return the values as text, and their number if not all are shown."""
    shown = ", ".join(f"`{value}`" for value in values[:SHOWN])
    return shown if len(values) <= SHOWN else f"{shown} and {len(values) - SHOWN} more"


def best_of(run: StoredRun, manifest: Manifest) -> str:
    """Return the run's metric and the best value of it that the checkpoint has on record, such as `accuracy 0.9120`; "" if there is
    none."""
    metric, value = run.recipe.eval.metric, manifest.metadata.get("best", {}).get("value")
    return f"{metric} {value:.4f}" if metric and isinstance(value, float) else ""


def _validation(run: StoredRun, manifest: Manifest) -> dict[str, str]:
    best = manifest.metadata.get("best", {})
    if not best_of(run, manifest) or best.get("step") != manifest.counters.step:
        return {}
    return {"validation": f"{best_of(run, manifest)}; this checkpoint is the best one by that"}


def _scores(run_dir: Path, task: str) -> dict[str, str]:
    """Return split -> metric and value from results.json of the run. A file that cannot be read has none."""
    try:
        entries = json.loads((run_dir / RESULTS).read_text())
    except (OSError, ValueError):
        return {}
    scored = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    own = [one for one in scored if one.get("weights") == FINE_TUNED and one.get("task") == task]
    return {f"result on {one.get('split')}": text for one in own if (text := _score(one))}


def _score(entry: Mapping[str, Any]) -> str:
    mean = entry.get("mean")
    if not isinstance(mean, int | float):
        return ""
    count = f", {entry['num_test']:,} samples" if isinstance(entry.get("num_test"), int) else ""
    steps = f", checkpoint of step {', '.join(map(str, entry['steps']))}" if entry.get("steps") else ""
    return f"{entry.get('metric')} {mean:.4f}{count}{steps}"
