"""The tables of transformers' data2vec classes: every setting is decided, configurations and recipes are inverse, tensors are those that
transformers has."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model.config import BlockConfig, EncoderConfig
from model.frontends.config import TextFrontendConfig, VisionFrontendConfig
from model.frontends.speech_config import SpeechFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop.expressible import SECTIONS
from recipes.interop.hf_format import FORMATS, format_of_config, format_of_modality, format_of_recipe
from recipes.interop.imported_recipe import template_of
from recipes.settings import apply_overrides, walk_settings
from recipes.vision import vision_base
from tests.recipes.interop.stored_models import small_recipes
from tests.recipes.interop.task_runs import task_recipe

NUM_RECIPES = 40


def settings(recipe: Recipe) -> dict[str, Any]:
    """Return dotted name -> value of the settings that decide which network the recipe has."""
    return {name: value for name, value, _, _ in walk_settings(recipe) if name.startswith(SECTIONS)}


def frontends(rng: np.random.Generator) -> dict[str, Any]:
    """Return a random front-end of each modality that transformers can express."""
    layers, patch = int(rng.integers(1, 5)), int(rng.choice([4, 8, 16]))
    relative_bias: Any = str(rng.choice(["shared", "per_layer", "none"]))
    return {
        "data2vec-text": TextFrontendConfig(int(rng.integers(6, 70_000)), int(rng.integers(1, 2000))),
        "data2vec-audio": SpeechFrontendConfig(
            conv_dim=int(rng.integers(1, 600)),
            conv_kernels=tuple(rng.integers(1, 12, layers).tolist()),
            conv_strides=tuple(rng.integers(1, 6, layers).tolist()),
            conv_bias=bool(rng.integers(2)),
            pos_conv_depth=int(rng.integers(2, 8)),
            pos_conv_kernel=int(rng.integers(1, 30)),
            pos_conv_groups=int(rng.choice([1, 2, 4])),
        ),
        "data2vec-vision": VisionFrontendConfig(patch * int(rng.integers(1, 20)), patch, int(rng.integers(1, 5)), relative_bias),
    }


def random_recipes(model_type: str) -> Iterator[Recipe]:
    """Yield random recipes that transformers can express."""
    is_vision = model_type == "data2vec-vision"
    for seed in range(NUM_RECIPES):
        rng = np.random.default_rng(seed)
        heads = int(rng.integers(1, 9))
        block = BlockConfig(
            normalize_before=is_vision,
            layernorm_epsilon=1e-5 if model_type == "data2vec-audio" else float(rng.choice([1e-5, 1e-6, 1e-12])),
            key_bias=not is_vision,
            layer_scale=float(rng.choice([1e-4, 0.1])) if is_vision and rng.integers(2) else None,
            drop_path=float(rng.random()),
            layerdrop=float(rng.random()),
        )
        activation: Any = str(rng.choice(["gelu", "relu"]))
        dropouts = rng.random(3).tolist()
        model = EncoderConfig(int(rng.integers(1, 30)), 4 * heads, int(rng.integers(1, 99)), heads, *dropouts, activation, block, 0.03)
        yield replace(template_of(FORMATS[model_type].modality, None), model=model, frontend=frontends(rng)[model_type])


@pytest.mark.parametrize("model_type", FORMATS)
def test_every_setting_of_the_model_is_stored_dropped_or_bound_by_a_rule(model_type: str) -> None:
    """A new setting fails here until it is decided what an export does with it."""
    table = FORMATS[model_type].expressible
    assert table.stored | table.dropped | table.rules.keys() == settings(template_of(FORMATS[model_type].modality, None)).keys()
    assert not table.dropped & (table.stored | table.rules.keys())


@pytest.mark.parametrize("model_type", FORMATS)
def test_a_recipe_comes_back_from_its_configuration_except_for_what_is_dropped(model_type: str) -> None:
    one = FORMATS[model_type]
    for recipe in random_recipes(model_type):
        back = settings(one.recipe_of(template_of(one.modality, None), one.own_config | one.config_of(recipe)))
        before = settings(recipe)
        assert {n: back[n] for n in before if n not in one.expressible.dropped} == {
            n: before[n] for n in before if n not in one.expressible.dropped
        }
        assert back["model.init_std"] == 0.03


@pytest.mark.parametrize("model_type", FORMATS)
def test_the_published_recipe_is_expressible_and_no_initial_deviation_becomes_transformers_default(model_type: str) -> None:
    one = FORMATS[model_type]
    assert one.config_of(template_of(one.modality, None))["initializer_range"] == 0.02
    assert one.config_of(apply_overrides(template_of(one.modality, None), ["model.init_std=none"]))["initializer_range"] == 0.02


REFUSED = {
    "data2vec-text": {
        "frontend.positions=relative": "transformers has absolute positions only; train with --set frontend.positions=absolute",
        "model.block.normalize_before=true": "LayerNorm after each residual addition only",
        "model.block.key_bias=false": "always has a bias on the keys",
        "model.block.layer_scale=0.1": "has no layer scale; train with --set model.block.layer_scale=none",
    },
    "data2vec-audio": {
        "frontend.extractor_norm=group": "a LayerNorm after every convolution",
        "frontend.pos_conv_depth=1": "no single, weight-normed positional convolution; train with --set frontend.pos_conv_depth=5",
        "model.block.normalize_before=true": "LayerNorm after each residual addition only",
        "model.block.key_bias=false": "always has a bias on the keys",
        "model.block.layer_scale=0.1": "has no layer scale",
        "model.block.layernorm_epsilon=1e-6": "one epsilon for the blocks and for the features",
    },
    "data2vec-vision": {
        "model.block.key_bias=true": "no bias on the keys",
        "model.block.normalize_before=false": "LayerNorm before attention and FFN only",
        "model.block.layer_scale=0": "takes 0 for no layer scale",
    },
}


@pytest.mark.parametrize("model_type", FORMATS)
def test_what_transformers_cannot_express_is_refused_with_setting_reason_and_remedy(model_type: str) -> None:
    one = FORMATS[model_type]
    assert {text.partition("=")[0] for text in REFUSED[model_type]} == one.expressible.rules.keys()
    for assignment, complaint in REFUSED[model_type].items():
        recipe = apply_overrides(template_of(one.modality, None), [assignment])
        with pytest.raises(ConfigError) as caught:
            one.config_of(recipe)
        assert str(caught.value).startswith(assignment.partition("=")[0]) and complaint in str(caught.value)
        assert "; " in str(caught.value) and "convert.py consolidate" in str(caught.value)


def transformers_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the parameters of transformers' model with this configuration."""
    import torch
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(**config))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


CHANGES: dict[str, list[dict[str, Any]]] = {
    "data2vec-text": [{}, {"type_vocab_size": 2}],
    "data2vec-audio": [{}, {"mask_time_prob": 0}, {"mask_time_prob": 0, "mask_feature_prob": 0.1}],
    "data2vec-vision": [{}, {"use_mask_token": False}, {"use_mean_pooling": False}],
}


@pytest.mark.parametrize("model_type", FORMATS)
def test_names_and_shapes_are_those_of_transformers(model_type: str) -> None:
    one = FORMATS[model_type]
    base = one.own_config | one.config_of(small_recipes()[one.modality])
    for change in CHANGES[model_type]:
        config = base | change
        assert one.shapes(config) == transformers_shapes(config), change
    missing = {name: value for name, value in base.items() if name not in one.own_config} | {"model_type": model_type}
    assert one.shapes(missing) == transformers_shapes(missing), "with transformers' defaults"


@pytest.mark.parametrize("model_type", ["data2vec-audio", "data2vec-vision"])
def test_a_model_that_was_not_imported_is_exported_with_its_mask_vector(model_type: str) -> None:
    one = FORMATS[model_type]
    recipe = small_recipes()[one.modality]
    shapes = one.shapes(one.own_config | one.config_of(recipe))
    assert "trunk.frontend.mask_vector" in {one.names(recipe).our_name(name) for name in shapes}


@pytest.mark.parametrize(
    ("model_type", "overrides"),
    [
        ("data2vec-vision", ["frontend.relative_bias=per_layer"]),
        ("data2vec-vision", ["frontend.relative_bias=none", "model.block.layer_scale=none"]),
        ("data2vec-audio", ["frontend.conv_bias=true"]),
    ],
)
def test_names_and_shapes_of_other_settings_are_those_of_transformers(model_type: str, overrides: list[str]) -> None:
    one = FORMATS[model_type]
    config = one.own_config | one.config_of(apply_overrides(small_recipes()[one.modality], overrides))
    assert one.shapes(config) == transformers_shapes(config)


def test_a_format_is_found_by_model_type_and_by_modality() -> None:
    assert format_of_config({"model_type": "data2vec-audio"}, "--from x") is format_of_modality("speech")
    with pytest.raises(ConfigError, match=r"--from x: its config\.json has model_type 'bert'; name a directory of data2vec-text"):
        format_of_config({"model_type": "bert"}, "--from x")
    with pytest.raises(ConfigError, match=r"modality toys:Smell: transformers has no data2vec class for it, only for text, speech, vision"):
        format_of_modality("toys:Smell")


def test_only_a_run_that_learned_from_labels_is_exported_with_a_head() -> None:
    form, plain = format_of_recipe(task_recipe("images")), format_of_recipe(vision_base())
    assert plain is FORMATS["data2vec-vision"] and plain.own_config["architectures"] == ["Data2VecVisionModel"]
    assert form.own_config["architectures"] == ["Data2VecVisionForImageClassification"]
    recipe = task_recipe("images")
    shapes = form.shapes(form.own_config | form.config_of(recipe))
    assert {name for name in shapes if not name.startswith("data2vec_vision.")} == {"classifier.weight", "classifier.bias"}
    table = form.names(recipe)
    assert table.our_name("data2vec_vision.pooler.layernorm.bias") == "head.norm.bias"


def test_token_types_of_a_text_with_a_head_are_zero_and_it_has_no_pooler() -> None:
    form, recipe = format_of_recipe(task_recipe("pairs")), task_recipe("pairs")
    shapes = form.shapes(form.own_config | form.config_of(recipe))
    assert not any("pooler" in name for name in shapes)
    assert form.untrained is not None
    assert not form.untrained("data2vec_text.embeddings.token_type_embeddings.weight", (1, 32)).any()
