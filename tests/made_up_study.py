"""Made-up studies and made-up runs of them: the files that a study and its trainings would have left. Nothing is trained."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recipes.run_dir.lock import Owner
from recipes.settings import recipe_to_dict
from recipes.study.run_folder import Run

BEGIN = 1.7e9
"""Unix time at which a made-up run begins."""
KEYS: Mapping[str, Any] = {
    "name": "made_up",
    "base": "text_tiny",
    "axes": {"model.hidden_size": [32, 64], "run.max_steps": [20, 40]},
    "seeds": [1, 2],
    "metric": "probe",
}
ENDINGS: Mapping[str, Mapping[str, Any] | None] = {
    "done": {"event": "stop", "reason": "done"},
    "stopped": {"event": "stop", "reason": "SIGTERM"},
    "failed": {"event": "error", "message": "the loss is\nnot finite"},
    "hung": {"event": "hang", "rank": 0},
    "killed": None,
    "running": None,
}
"""Value of `ended` -> the last event of the run; None: there is none. A run that is running also has a lock, of this process."""


def made_up_study(folder: Path, **keys: Any) -> Path:
    """Write a study file into `folder` and return its path. `keys` replace those of KEYS; a key with the value `...` is left out."""
    content = {**KEYS, "out": str(folder / "out"), **keys}
    path = folder / "study.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return path


def made_up_run(run: Run, *, score: float | None, seconds: float = 0.1, rows: int = 10, ended: str = "done") -> None:
    """Write the run dir of a run: config.json, metrics.jsonl with `rows` rows at `seconds` per update, and events.jsonl. `score`: the probe
    after the last row; None: no probe. `ended`: a key of ENDINGS."""
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / "config.json").write_text(json.dumps(_config(run)))
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _metrics(run, score, seconds, rows)))
    steps = run.cell.recipe.run.max_steps
    events = [
        {"event": "start", "step": 0, "setup_seconds": 1.0, "world_size": run.cell.ranks, "tp_size": 1, "num_replicas": 1},
        {"event": "probe", "step": 0, "probe": 0.05},
    ]
    if last := ENDINGS[ended]:
        events.append({"step": steps, **last})
    times = (BEGIN, BEGIN + 1, BEGIN + 2 + steps * seconds)
    lines = [{"time": time, "lost_steps": 0, "lost_seconds": 0.0} | event for time, event in zip(times, events, strict=False)]
    (run.path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if ended == "running":
        (run.path / ".lock").write_text(json.dumps(asdict(Owner.this_process())))


def _config(run: Run) -> dict[str, Any]:
    config = run.cell.config
    return {
        "release": "made-up",
        "recipe": recipe_to_dict(run.cell.recipe),
        "deepspeed_config": config.path,
        "deepspeed": config.deepspeed,
        "world_size": run.cell.ranks,
        "tp_size": 1,
    }


def _metrics(run: Run, score: float | None, seconds: float, rows: int) -> list[dict[str, Any]]:
    recipe = run.cell.recipe
    steps, tokens = recipe.run.max_steps, run.cell.tokens / recipe.run.max_steps
    found = []
    for number in range(1, rows + 1):
        step = max(1, steps * number // rows)
        found.append(
            {
                "step": step,
                "loss": 4.0 / number,
                "grad_norm": 1.0,
                "lr": recipe.optim.lr,
                "samples": step * recipe.run.global_batch_size,
                "tokens": round(step * tokens),
                "data_wait_seconds": 0.001,
                "skipped_steps": 0,
                "world_size": run.cell.ranks,
                "peak_memory_bytes": 500_000_000,
                "step_seconds": seconds,
                "tokens_per_second": tokens / seconds,
                "mfu": None,
            }
        )
    if score is not None and found:
        found[-1]["probe"] = score
    return found
