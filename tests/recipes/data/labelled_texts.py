"""Writes small labelled texts, and makes the recipe that reads them, for tests of their preparation."""

import random
from collections.abc import Mapping
from pathlib import Path

from recipes.config import Recipe
from recipes.finetune.text_tasks import TEXT_TASKS, text_recipe
from recipes.settings import apply_overrides
from tests.launching import tiny_recipe
from tests.made_up import SYLLABLES

SIZES = {"train": 40, "valid": 9, "test": 7}


def sentence(rng: random.Random, most: int = 9) -> str:
    """Return a random sentence of 2 to `most` words."""
    return " ".join("".join(rng.choices(SYLLABLES, k=2)) for _ in range(rng.randint(2, most)))


def write_texts(folder: Path, sizes: Mapping[str, int] = SIZES, *, most: int = 9) -> Path:
    """Write SPLIT.csv for each split: a pair of texts, the class a, b or c (column label), and the number of the class (column score).
    `most`: words of a text."""
    folder.mkdir(exist_ok=True, parents=True)
    for split, size in sizes.items():
        rng = random.Random(split)
        rows = [f"{sentence(rng, most)},{sentence(rng, most)},{'abc'[row % 3]},{row % 3}.5" for row in range(size)]
        (folder / f"{split}.csv").write_text("\n".join(["text,other,label,score", *rows]) + "\n")
    return folder


def recipe_of(path: object, *settings: str, task: str = "classify") -> Recipe:
    """Return the recipe of a task for a tiny network, on the data at `path`. `settings`: section.key=value."""
    network = tiny_recipe("text", frontend__vocab_size=100)
    recipe = text_recipe(task, TEXT_TASKS[task], network)
    return apply_overrides(recipe, [f"data.path={path}", "run.global_batch_size=8", *settings])
