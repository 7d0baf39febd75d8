"""Checks fine-tuning on the device: a task of each modality runs through the training loop and resumes with the same bits, and its update
is timed beside plain torch."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from accelerator.result import Row, unsupported_row
from accelerator.setting import run_recipe
from accelerator.steps import WARM_UP, measured, open_bench, plain_row
from accelerator.training import SAVED_AT, STEPS, finite_row, resumed_row
from accelerator.worker import Context
from recipes.check import changed_recipe
from recipes.cluster.checkout import ROOT
from recipes.config import Recipe
from recipes.engine.build import is_supported
from recipes.finetune.speech_tasks import SPEECH_TASKS, speech_recipe
from recipes.finetune.text_tasks import TEXT_TASKS, text_recipe
from recipes.finetune.vision_tasks import VISION_TASKS, vision_recipe
from recipes.speech import speech_tiny
from recipes.text import text_tiny
from recipes.vision import vision_tiny

SAMPLES, WORDS, BATCH, LENGTH = 96, 60, 16, 128
COMMON = {
    **{"run.max_steps": STEPS, "run.save_steps": SAVED_AT, "run.eval_steps": STEPS, "run.log_steps": 1, "run.global_batch_size": 16},
    **{"finetune.epochs": 0, "optim.schedule_steps": 100, "optim.warmup_steps": 2, "run.deterministic": "true"},
    **{"objective.frozen_steps": 2, "data.heldout_fraction": 0.2},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "text": {"data.sequence_length": 64, "frontend.vocab_size": 200},
    "speech": {"optim.decay_steps": 0, "data.time_mask_prob": 0.3, "data.channel_mask_prob": 0.2},
    "vision": {"data.mixup_alpha": 0.8, "data.cutmix_alpha": 1.0},
}
"""Modality -> settings beside the common ones."""


def write_sentences(folder: Path) -> Path:
    """Write labelled sentences of random words in the splits train, valid and test, and return the folder. The class is the first word."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 4)) for _ in range(WORDS)]
    folder.mkdir()
    for split, count in {"train": SAMPLES, "valid": 16, "test": 16}.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            for number in range(count):
                rows.writerow([" ".join([words[number % 2], *rng.choice(words, 3 + number % 20)]), number % 2])
    return folder


def write_transcripts(folder: Path) -> Path:
    """Write a manifest that gives the shipped recordings transcripts of two letters, and return its path."""
    folder.mkdir()
    manifest = folder / "train.csv"
    with manifest.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["audio", "text"])
        for number, path in enumerate(sorted((ROOT / "recipes" / "samples" / "speech").glob("*.ogg"))):
            rows.writerow([path, "ab ba"[: 1 + number % 5].strip()])
    return manifest


def recipe_of(modality: str, folder: Path) -> Recipe:
    """Return the recipe that fine-tunes the modality's tiny network on small labelled data: made-up sentences, made-up transcripts of the
    shipped recordings, or the shipped photographs. Files are written into `folder`."""
    if modality == "text":
        named, data = text_recipe("classify", TEXT_TASKS["classify"], text_tiny()), write_sentences(folder)
    elif modality == "speech":
        named, data = speech_recipe("ctc", SPEECH_TASKS["ctc"], speech_tiny()), write_transcripts(folder)
    else:
        named, data = vision_recipe("classify", VISION_TASKS["classify"], vision_tiny()), ROOT / "recipes" / "samples" / "vision"
    return changed_recipe(named, [f"{key}={value}" for key, value in (COMMON | SETTINGS[modality]).items()], str(data))


def check_finetuning(context: Context, modality: str, precision: str) -> Iterator[Row]:
    """Fine-tune a tiny network for five updates, of which the first two leave the trunk as it is, and the last two again from a checkpoint:
    text and images are classified, recordings are transcribed (CTC). Yield rows: losses are finite, and the resumed run has the same
    bits."""
    if not is_supported(precision):
        yield unsupported_row(precision, f"{STEPS} updates")
        return
    whole, recipe = context.folder / "whole", recipe_of(modality, context.folder / "data")
    run_recipe(recipe, f"zero3_{precision}", whole)
    yield finite_row(whole, f"{STEPS} updates of {recipe.objective.kind}")
    yield resumed_row(whole, lambda run_dir: run_recipe(recipe, f"zero3_{precision}", run_dir))


def check_step(context: Context) -> Iterator[Row]:
    """Measure the update of a classification with text_base, and that of plain torch. Yields two rows."""
    with open_bench(context, "text_base", task="classify", length=LENGTH) as bench:
        size = 2 if context.is_tiny else BATCH
        row = measured(bench, size)
        yield row
        plain: Any = bench.plain()
        batch = bench.batch(size).to(bench.device)
        for _ in range(WARM_UP):
            plain.run(batch)
        yield plain_row(bench, plain, size, row.numbers["milliseconds"])
