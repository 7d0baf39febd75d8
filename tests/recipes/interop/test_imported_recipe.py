"""The recipe of an imported run is valid, has the template's other settings, and the printed command gives exactly this recipe."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.config import BlockMaskConfig
from model.frontends.config import TextFrontendConfig, VisionFrontendConfig
from recipes.catalog import RECIPES
from recipes.check import check_recipe, resolve_recipe
from recipes.data.tokenizer import TokenizerFile
from recipes.errors import ConfigError
from recipes.interop.imported_recipe import described_by, fitted, next_command, template_of
from recipes.interop.imported_tokenizer import ImportedTokenizer
from tests.recipes.interop.sources import sentencepiece_model

NONE = ImportedTokenizer()


def fit(recipe: Any, template: Any, tokenizer: ImportedTokenizer = NONE) -> Any:
    return fitted(recipe, template, tokenizer, "--from here")


def test_the_template_is_the_named_recipe_or_the_base_of_the_modality() -> None:
    assert template_of("text", None).name == "text_base" and template_of("speech", "speech_tiny").name == "speech_tiny"
    with pytest.raises(ConfigError, match="vision_base: a recipe of modality vision"):
        template_of("text", "vision_base")


def test_text_is_not_longer_than_the_positions_and_has_the_tokenizers_case() -> None:
    template: Any = template_of("text", "text_tiny")
    recipe = fit(replace(template, frontend=TextFrontendConfig(vocab_size=100, max_positions=2)), template)
    assert (recipe.data.sequence_length, recipe.mask.length) == (2, 1) and recipe.data.lowercase
    cased = ImportedTokenizer(TokenizerFile("tokenizer.model", sentencepiece_model()))
    assert not fit(template, template, cased).data.lowercase
    assert fit(template, template) == template


@pytest.mark.parametrize(("image_size", "expected"), [(224, (120, 16, 196)), (64, (9, 1, 9)), (32, (2, 1, 2))])
def test_masked_patches_are_in_proportion_to_the_templates_if_its_number_does_not_fit(
    image_size: int, expected: tuple[int, int, int]
) -> None:
    template = template_of("vision", None)
    recipe = fit(replace(template, frontend=VisionFrontendConfig(image_size=image_size)), template)
    mask = recipe.mask
    assert isinstance(mask, BlockMaskConfig) and (mask.num_patches, mask.min_block, mask.max_block) == expected
    check_recipe(recipe)


def test_a_recipe_that_stays_invalid_is_refused_with_the_source() -> None:
    template = template_of("text", None)
    with pytest.raises(ConfigError, match=r"^--from here: as a recipe of this project, model\.hidden_size 100 is not a multiple of"):
        fit(replace(template, model=replace(template.model, hidden_size=100, num_attention_heads=7)), template)


@pytest.mark.parametrize(
    ("recipe_of", "complaint"),
    [
        (lambda config: config["num_hidden_layers"], r"its configuration \(1 settings\) lacks num_hidden_layers; add it"),
        (lambda config: config["conv_dim"][0] + 1, "its configuration has a setting of a wrong type"),
        (lambda config: config["conv_dim"].values(), "its configuration has a setting of a wrong type"),
    ],
)
def test_a_configuration_that_lacks_a_setting_or_has_a_wrong_type_is_refused(recipe_of: Callable[[Any], Any], complaint: str) -> None:
    config = {"conv_dim": "512"}
    with pytest.raises(ConfigError, match=f"^--from here: {complaint}"):
        described_by(config, "--from here", lambda: recipe_of(config))


@pytest.mark.parametrize("modality", ["text", "speech", "vision"])
@pytest.mark.parametrize("size", ["tiny", "base"])
def test_the_printed_command_gives_the_recipe_again(modality: str, size: str) -> None:
    template = template_of(modality, f"{modality}_{size}")
    model = replace(template.model, num_layers=20, hidden_size=48, num_attention_heads=3, hidden_dropout=0.25, init_std=None)
    teacher = replace(template.teacher, layer_norms=(), average_norms=("layer", "instance"), average_top_k_layers=20)
    recipe: Any = replace(template, model=model, teacher=teacher)
    line = next_command(recipe, template, template.name, Path("a dir/run"), {})
    words = shlex.split(line)
    assert words[:2] == ["deepspeed", f"launch/pretrain_{modality}.py"] and "YOUR_" in line
    assert words[words.index("--run-dir") + 1] == "a dir/run"
    sets = [words[number + 1] for number, word in enumerate(words) if word == "--set"]
    assert resolve_recipe(words[words.index("--recipe") + 1], RECIPES[modality], sets, None) == recipe
