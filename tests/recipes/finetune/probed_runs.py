"""Trains tiny runs that are probed meanwhile, for tests: labelled data of each modality, and the rows of metrics.jsonl."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from recipes.catalog import RECIPES
from recipes.check import resolve_recipe
from recipes.ds_config import load_ds_config, resolve
from tests.distributed import run_distributed
from tests.launching import ROOT, overrides
from tests.made_up import RATE
from tests.recipes.finetune.sentences import write_sentences

TIMINGS = {"step_seconds", "data_wait_seconds", "tokens_per_second", "mfu", "peak_memory_bytes"}
SMALL = ("optim.lr=0.02", "optim.warmup_steps=0", "model.num_layers=3", "model.hidden_dropout=0.2", "run.save_steps=2")
TP2 = {"megatron": {"tensor_model_parallel_size": 2}}
PROBES = {
    "cloze": ("text", ["data.heldout_fraction=0.2"]),
    "text": ("text", ["data.heldout_fraction=0.2", "data.text_column=sentence", "eval.probe_label_column=kind"]),
    "speech": ("speech", []),
    "vision": ("vision", []),
}
"""Kind of probe -> modality and settings."""


def write_voices(folder: Path) -> Path:
    """Write 23 recordings of different lengths into one folder per class: low and high tones in much noise."""
    for number in range(23):
        rng, (name, hertz) = np.random.default_rng(number), (("low", 600), ("high", 1400))[number % 2]
        seconds = np.arange(rng.integers(500, 1600)) / RATE
        (folder / name).mkdir(parents=True, exist_ok=True)
        waveform = 0.02 * np.sin(2 * np.pi * hertz * seconds) + 0.2 * rng.standard_normal(len(seconds))
        soundfile.write(folder / name / f"{number}.wav", waveform, RATE)
    return folder


def write_noise(folder: Path) -> Path:
    """Write 70 pictures of noise, which are slightly more blue in one of two classes, into one folder per class."""
    for number in range(70):
        path = folder / ("grey", "blue")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 240, (24, 24, 3), dtype=np.uint8)
        pixels[..., 2] += 6 * (number % 2)
        Image.fromarray(pixels).save(path)
    return folder


def settings_of(kind: str, labelled: Path) -> list[str]:
    """Write the labelled data of this kind of probe, and return the settings for a probe of every second update."""
    if kind == "cloze":
        return [*PROBES[kind][1], "eval.probe_steps=2", "eval.probe_samples=70"]
    labelled.mkdir()
    write = {"text": write_sentences, "speech": write_voices, "vision": write_noise}[kind]
    return [*PROBES[kind][1], "eval.probe_steps=2", f"eval.probe_data={write(labelled)}"]


def run_rank(modality: str, run_dir: Path, data: Path, settings: Sequence[str], changes: dict[str, Any], world_size: int) -> None:
    """Train on one rank. `changes` are merged into zero3_cpu.json."""
    from recipes.finetune.probe_source import FrozenFeatures
    from recipes.train import loop

    recipe = resolve_recipe(f"{modality}_tiny", RECIPES[modality], [*overrides(modality)[1::2], *SMALL, *settings], str(data))
    config = resolve(recipe, load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json") | changes, "test", world_size)
    assert loop.run(recipe, config, run_dir, {}, FrozenFeatures()) == 0, "the run ends"


def train(
    modality: str, run_dir: Path, data: Path, settings: Sequence[str], *, changes: dict[str, Any] | None = None, world_size: int = 1
) -> list[dict[str, Any]]:
    """Train four updates, or as many as `settings` say, and return the rows of metrics.jsonl without timings."""
    settings = ["run.max_steps=4", *settings]
    run_distributed(run_rank, world_size, modality, run_dir, data, settings, changes or {}, world_size, timeout=100)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMINGS} for row in rows]
