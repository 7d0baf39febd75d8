"""The first lines of a run on the terminal: model, device, batch, run dir, steps. startup.py prints them."""

import os
import re
from typing import Any

import torch

from recipes.config import Recipe
from recipes.ds_config import EngineConfig
from recipes.eval_config import EvalConfig
from recipes.plan.size import num_parameters
from recipes.run_dir.run_dir import RunDir
from recipes.train.metrics import unknown_peak_line
from recipes.train.origin import Origin


def model_lines(recipe: Recipe, config: EngineConfig, device: torch.device) -> list[str]:
    """Return the lines for the terminal on model, device and batch. They are printed before the networks are built, which is slow."""
    batch, ranks = config.batch, f"{config.batch.world_size} rank{'s' if config.batch.world_size > 1 else ''}"
    copies = f", {batch.num_replicas} copies of the model" if batch.num_replicas > 1 else ""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    unknown = unknown_peak_line(recipe.run, device)
    return [
        f"{recipe.name}: {num_parameters(recipe):,} parameters, {config.precision} on {where}, {shortest(config.path)}",
        f"{ranks} = data-parallel {batch.dp_size} x tensor-parallel {batch.tp_size}{copies}",
        f"update of {recipe.run.global_batch_size} samples = data-parallel {batch.dp_size} x micro-batch {batch.micro_batch_size} "
        f"x accumulation {batch.accumulation_steps}",
        *([unknown] if unknown else []),
    ]


def origin_line(origin: Origin, recipe: Recipe) -> str:
    """Return the line for the terminal on the weights with which a new run begins."""
    own = recipe.objective.beginning(recipe.start)
    return f"begins with the weights of {shortest(origin.path)}, step {origin.step} of {origin.recipe}" + (f"; {own}" if own else "")


def run_dir_lines(recipe: Recipe, run_dir: RunDir, step: int, seconds: float) -> list[str]:
    """Return the lines for the terminal: run dir and steps; duration of the start-up (`seconds`); if there was one, the dead launch that
    owned the run dir; if there are any, the changed settings. `step`: the step at which this launch begins."""
    lines = [
        f"run dir {run_dir.path}: {'resumed at' if step else 'from'} step {step} to {recipe.run.max_steps}, "
        f"a checkpoint every {recipe.run.save_steps}{_on_best(recipe.eval)}",
        f"ready in {seconds:.1f} s; Ctrl-C saves and stops, the same command continues",
    ]
    if run_dir.taken_from:
        lines.append(f"taken over from {run_dir.taken_from}, which ended without releasing the run dir")
    if run_dir.accepted:
        lines.append(f"changed: {', '.join(f'{key} {_shown(old)} -> {_shown(new)}' for key, (old, new) in run_dir.accepted.items())}")
    return lines


def _on_best(config: EvalConfig) -> str:
    if not config.metric:
        return ""
    ends = f", the run ends after {config.patience} evaluations without a better one" if config.patience else ""
    return f" and of the best {config.metric}{ends}"


def _shown(value: Any) -> str:
    """Return the value as text, a SHA-256 shortened to its first twelve characters."""
    return str(value)[:12] if re.fullmatch("[0-9a-f]{64}", str(value)) else str(value)


def shortest(path: str) -> str:
    """Return the path relative to the working directory if that is shorter."""
    return min(path, os.path.relpath(path), key=len) if os.path.exists(path) else path
