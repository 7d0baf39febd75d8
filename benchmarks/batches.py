"""Random micro-batches with each modality's own masks, for benchmarks that need no data."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from recipes.config import Recipe
from recipes.errors import ConfigError

DEFAULT_LENGTH = {"text": 512, "speech": 10, "vision": 0}
"""Tokens of a text, seconds of a recording; images have the recipe's size."""


def sized(recipe: Recipe, length: int) -> Recipe:
    """The recipe for samples of this length. Raises: ConfigError for a length that the modality does not have."""
    if recipe.modality == "vision" and length:
        raise ConfigError(f"--length {length}: images have the recipe's size; leave it out")
    return SIZED[recipe.modality](recipe, length)


def random_batch(recipe: Recipe, size: int, length: int) -> Any:
    """A micro-batch of `size` random samples of that length, all alike."""
    return BATCHES[recipe.modality](recipe, size, length, np.random.default_rng(0))


def _sized_text(recipe: Any, length: int) -> Recipe:
    frontend = replace(recipe.frontend, max_positions=max(length, recipe.frontend.max_positions))
    return replace(recipe, frontend=frontend, data=replace(recipe.data, sequence_length=length))


def _text(recipe: Any, size: int, length: int, rng: np.random.Generator) -> Any:
    from model.masking import token_mask
    from recipes.data.text import TextDataset, TextExample

    examples, vocab_size = [], recipe.frontend.vocab_size
    for _ in range(size):
        clean = rng.integers(4, vocab_size - 1, length)
        examples.append(TextExample(clean, *token_mask(clean, recipe.mask, rng, vocab_size=vocab_size)))
    dataset = TextDataset.__new__(TextDataset)
    dataset.sequence_length, dataset._is_padded = length, False
    return dataset.collate(examples)


def _speech(recipe: Any, size: int, length: int, rng: np.random.Generator) -> Any:
    from model.masking import span_mask, unmask_to
    from recipes.data.speech import SpeechExample, collate_speech

    num_samples = length * recipe.data.sample_rate
    masks = [span_mask(recipe.frontend.num_frames(num_samples), recipe.mask, rng) for _ in range(size)]
    fewest = min(int(mask.sum()) for mask in masks)
    examples = [SpeechExample(rng.standard_normal(num_samples, dtype=np.float32), unmask_to(mask, fewest, rng)) for mask in masks]
    return collate_speech(examples, recipe.frontend)


def _vision(recipe: Any, size: int, length: int, rng: np.random.Generator) -> Any:
    from model.masking import block_mask
    from recipes.data.vision import VisionExample, collate_vision

    frontend = recipe.frontend
    shape = (frontend.num_channels, frontend.image_size, frontend.image_size)
    masks = [block_mask(frontend.grid, recipe.mask, rng) for _ in range(size)]
    return collate_vision([VisionExample(rng.standard_normal(shape, dtype=np.float32), mask) for mask in masks])


SIZED: dict[str, Callable[[Recipe, int], Recipe]] = {
    "text": _sized_text,
    "speech": lambda recipe, _: recipe,
    "vision": lambda recipe, _: recipe,
}
BATCHES: dict[str, Callable[..., Any]] = {"text": _text, "speech": _speech, "vision": _vision}
