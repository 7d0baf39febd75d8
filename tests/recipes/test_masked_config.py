"""The sections of the objectives that predict at masked positions: sizes, and settings that contradict others."""

from dataclasses import replace

import pytest

from model.activations import Storage
from recipes.check import check_recipe
from recipes.errors import ConfigError
from recipes.masked_config import MlmConfig, PixelsConfig
from recipes.objective_config import MicroBatchShape, ObjectiveConfig
from recipes.text import text_base
from recipes.vision import vision_base
from tests.launching import tiny_recipe


def test_a_teacher_must_average_layers_that_are_there() -> None:
    with pytest.raises(ConfigError, match=r"teacher\.average_top_k_layers 2 of model\.num_layers 1"):
        check_recipe(tiny_recipe("text", teacher__average_top_k_layers=2))


def test_the_regression_head_is_counted_at_the_masked_positions_and_the_teacher_at_all() -> None:
    recipe, shape = text_base(), MicroBatchShape(num_samples=4, own=100, prefix=0)
    one_layer = replace(recipe, model=replace(recipe.model, head_layers=1))
    storage = Storage(2, on_gpu=True)
    assert sum(recipe.objective.head_bytes(recipe, storage, shape).values()) == pytest.approx(2 * 0.35 * 400 * 768 * (1 + 4 + 1))
    assert sum(recipe.objective.head_bytes(one_layer, storage, shape).values()) == pytest.approx(2 * 0.35 * 400 * 768 * 2)
    few, many = (replace(recipe, teacher=replace(recipe.teacher, average_top_k_layers=top)) for top in (9, 10))
    further = [sum(one.objective.further_forward_bytes(one, storage, shape).values()) for one in (few, many)]
    assert further[1] - further[0] == 2 * 2 * 768 * 400, "two outputs of each layer"


def test_the_regression_heads_flops_are_those_of_the_masked_positions_and_the_teachers_have_no_head() -> None:
    recipe = text_base()
    assert recipe.objective.head_flops(recipe, 512).forward == pytest.approx(2 * 0.307 * 512 * 4 * 768**2, rel=0.005)  # data2vec.md 3.1
    blocks = {f"teacher {part}": flops for part, flops in recipe.model.forward_flops(512).items()}
    assert recipe.objective.further_flops(recipe, 512) == {"teacher front-end": 0} | blocks
    assert ObjectiveConfig().head_flops(recipe, 512) == (0, 0) and ObjectiveConfig().further_flops(recipe, 512) == {}


def test_the_controls_predict_tokens_and_pixels() -> None:
    text, vision = text_base(), vision_base()
    assert MlmConfig().num_outputs(text.model, text.frontend) == 50265
    assert PixelsConfig().num_outputs(vision.model, vision.frontend) == 16 * 16 * 3
    one_layer = replace(text, model=replace(text.model, head_layers=1), objective=MlmConfig())
    shapes = [shape.shape for shape in one_layer.objective.head_parameters(one_layer.model, one_layer.frontend)]
    assert shapes == [(50265, 768), (50265,)]
    assert one_layer.objective.further_flops(one_layer, 512) == {} and one_layer.objective.num_teachers == 0


def test_the_logits_of_the_vocabulary_are_counted_in_float32_too() -> None:
    recipe = replace(text_base(), objective=MlmConfig())
    shape, storage = MicroBatchShape(num_samples=4, own=100, prefix=0), Storage(2, on_gpu=True)
    found = recipe.objective.head_bytes(recipe, storage, shape)
    assert found["outputs of the head in float32"] == pytest.approx(0.35 * 400 * 50265 * 3 * 4)
    assert found["predictions"] == pytest.approx(0.35 * 400 * 50265 * 2)
