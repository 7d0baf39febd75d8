"""Random micro-batches: of the size asked for, and masked as the recipe masks."""

import sys
from pathlib import Path

import pytest

from recipes.catalog import RECIPES
from recipes.errors import ConfigError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from batches import DEFAULT_LENGTH, random_batch, sized


@pytest.mark.parametrize(
    ("modality", "length", "tokens", "share"), [("text", 128, 128, 0.3), ("speech", 4, 199, 0.42), ("vision", 0, 64, 0.59)]
)
def test_a_batch_has_the_recipes_tokens_and_masks(modality: str, length: int, tokens: int, share: float) -> None:
    recipe = sized(RECIPES[modality][f"{modality}_tiny"](), length)
    batch = random_batch(recipe, 8, length)
    assert len(batch.inputs) == 8 and batch.num_tokens == 8 * tokens
    assert batch.num_masked / batch.num_tokens == pytest.approx(share, abs=0.08)
    assert set(DEFAULT_LENGTH) == set(RECIPES)


def test_images_have_the_recipes_size() -> None:
    with pytest.raises(ConfigError, match="--length 512: images have the recipe's size"):
        sized(RECIPES["vision"]["vision_base"](), 512)
