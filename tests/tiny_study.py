"""A study whose runs train for a second each, for tests that really train: on this machine, or on Slurm."""

import csv
import json
from pathlib import Path
from typing import Any

from tests.launching import TINY

UPDATES = 24
"""Updates of a run, with a checkpoint every four."""
BROKEN = {"guard.min_target_std": 1000.0, "guard.after_steps": 4}
"""Settings under which a run ends as collapsed at its sixth update, always."""
EQUAL = ("cell", "seed", "state", "step", "tokens", "samples", "loss", "eval_loss", "explained_variance", "metric", "settings")
"""Columns of a table that do not depend on how often a run was interrupted."""


def tiny_study(folder: Path, data: Path, **keys: Any) -> Path:
    """Write a study file into `folder`, and return its path: six cells with two seeds. `data`: prepared with TINY's settings. `keys`:
    further keys of the study, or others."""
    own = {"run.max_steps": UPDATES, "run.save_steps": 4, "run.log_steps": 2, "run.eval_samples": 8}
    content = {
        **{"name": "tiny", "base": "text_tiny", "data": str(data), "out": str(folder / "study"), "metric": "explained_variance"},
        **{"axes": {"optim.lr": [1e-3, 2e-3, 3e-3], "mask.prob": [0.2, 0.4]}, "seeds": [1, 2]},
        **{"set": {**TINY["text"], **own}},
    }
    path = folder / "study.json"
    path.write_text(json.dumps({**content, **keys}))
    return path


def compared(table: Path) -> list[dict[str, str]]:
    """Return the rows of a table.csv, with the columns that an interruption must not change."""
    with table.open() as file:
        return [{name: row[name] for name in EQUAL} for row in csv.DictReader(file)]
