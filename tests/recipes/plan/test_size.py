"""Parameters compared with the built module, bytes with their parts."""

from dataclasses import replace

import pytest
import torch.distributed as dist

from model.config import EncoderConfig
from model.dropout import DropoutStream
from model.frontends.config import FrontendConfig
from model.init import Init
from model.parallel import init_parallel
from model.shapes import ParameterShape, count_parameters
from model.student import Student
from recipes.catalog import RECIPES
from recipes.config import Recipe
from recipes.ds_config import resolve
from recipes.modalities.registry import MODALITIES
from recipes.objective_config import ObjectiveConfig
from recipes.plan.size import (
    num_parameters,
    num_trunk_parameters,
    padded_elements,
    shard_elements,
    state_bytes,
    student_parameters,
    whole_elements,
)
from recipes.text import text_base
from tests.distributed import run_distributed
from tests.launching import tiny_recipe
from tests.recipes.data.labelled_texts import recipe_of

SHAPES: list[tuple[str, dict[str, object]]] = [
    ("text", {}),
    ("text", {"model__num_layers": 3, "model__ffn_hidden_size": 56}),
    ("text", {"frontend__positions": "absolute"}),
    ("text", {"frontend__positions": "absolute", "frontend__max_positions": 77}),
    ("text", {"model__block__normalize_before": True}),
    ("text", {"model__head_layers": 0}),
    ("text", {"model__head_layers": 1}),
    ("text", {"model__head_layers": 3}),
    ("text", {"frontend__vocab_size": 256}),
    ("text", {"frontend__vocab_size": 257, "model__hidden_size": 20}),
    ("speech", {}),
    ("speech", {"frontend__extractor_norm": "layer"}),
    ("speech", {"frontend__pos_conv_depth": 1, "frontend__conv_bias": True}),
    ("speech", {"model__block__normalize_before": True, "model__num_layers": 2}),  # one norm less before, one more behind
    ("vision", {}),
    ("vision", {"frontend__relative_bias": "per_layer", "model__num_layers": 2}),
    ("vision", {"frontend__relative_bias": "none", "model__block__layer_scale": "none"}),
    ("vision", {"model__block__key_bias": True, "model__block__normalize_before": False, "model__num_layers": 3}),
]


def count_real_parameters(recipes: list[Recipe]) -> list[tuple[int, int]]:
    """Return (student, trunk) of each recipe's modules, without the rows that pad the vocabulary."""
    assert dist.get_world_size() == 1
    parallel, counts = init_parallel(1, "cpu"), []
    for recipe in recipes:
        build_frontend = MODALITIES[recipe.modality].build_frontend(recipe)
        student = Student(recipe.model, build_frontend, Init(recipe.run.seed), parallel, DropoutStream())
        rows, used = getattr(recipe.frontend, "padded_vocab_size", 0), getattr(recipe.frontend, "vocab_size", 0)
        padding = (rows - used) * recipe.model.hidden_size
        counts.append(tuple(sum(p.numel() for p in part.parameters()) - padding for part in (student, student.trunk)))
    return counts


def test_the_parameter_count_is_that_of_the_real_modules() -> None:
    recipes = [tiny_recipe(modality, **shape) for modality, shape in SHAPES] + [RECIPES[name][f"{name}_tiny"]() for name in RECIPES]
    (real,) = run_distributed(count_real_parameters, 1, recipes)
    assert [(num_parameters(recipe), num_trunk_parameters(recipe)) for recipe in recipes] == real
    assert len({student for student, _ in real}) == len(real), "every shape changes the count"


def test_published_sizes_are_those_of_roberta() -> None:
    assert 120e6 < num_parameters(RECIPES["text"]["text_base"]()) < 130e6
    assert 350e6 < num_parameters(RECIPES["text"]["text_large"]()) < 365e6


@pytest.mark.parametrize(
    ("precision", "width", "summed", "master", "shadow"), [("fp32", 4, 4, 0, 0), ("bf16", 2, 4, 4, 4), ("fp16", 2, 2, 4, 4)]
)
@pytest.mark.parametrize("world_size", [1, 8])
def test_state_bytes_are_the_parts_of_mixed_precision_training(
    precision: str, width: int, summed: int, master: int, shadow: int, world_size: int
) -> None:
    """In bf16 gradients are summed in float32. In fp32 the forward's weights are the master weights, and the teacher's are its EMA."""
    recipe = text_base()
    content = {} if precision == "fp32" else {precision: {"enabled": True}}
    padding = (recipe.frontend.padded_vocab_size - recipe.frontend.vocab_size) * recipe.model.hidden_size  # type: ignore[attr-defined]
    student, trunk = (number(recipe) + padding for number in (num_parameters, num_trunk_parameters))
    sizes = state_bytes(recipe, resolve(recipe, content, "x.json", world_size))
    whole = {
        **{"parameters": student * width, "gradients": student * summed, "gradients of the host's optimizer": 0},
        **{"master weights": student * master, "moments": student * 8, "teacher": trunk * width, "EMA shadow": trunk * shadow},
    }
    assert sizes == {name: size / world_size for name, size in whole.items()}, "768 channels divide by eight"


class Alone(ObjectiveConfig):
    """An objective with a student only, whose head has seven parameters."""

    def head_parameters(self, encoder: EncoderConfig, frontend: FrontendConfig) -> list[ParameterShape]:
        return [ParameterShape("weight", (7,))]


def test_the_objectives_own_counts_are_used() -> None:
    recipe = replace(text_base(), objective=Alone())
    assert num_parameters(recipe) == num_trunk_parameters(recipe) + 7 < num_parameters(text_base())
    sizes = state_bytes(recipe, resolve(recipe, {"bf16": {"enabled": True}}, "x.json", 1))
    assert sizes["teacher"] == sizes["EMA shadow"] == 0
    assert state_bytes(text_base(), resolve(text_base(), {"bf16": {"enabled": True}}, "x.json", 1))["parameters"] > sizes["parameters"]


def test_what_tensor_parallelism_leaves_whole_is_held_by_each_of_its_ranks() -> None:
    recipe = text_base()
    split = resolve(recipe, {"megatron": {"tensor_model_parallel_size": 2}}, "x.json", 8)
    together = resolve(recipe, {}, "x.json", 8)
    whole = [shape for shape in student_parameters(recipe) if shape.split_dim is None]
    more = 4 * (shard_elements(whole, split.batch) - shard_elements(whole, together.batch))
    assert state_bytes(recipe, split)["parameters"] == state_bytes(recipe, together)["parameters"] + more
    assert 0.02 < more / state_bytes(recipe, together)["parameters"] < 0.03


def test_shards_are_padded_to_equal_sizes() -> None:
    recipe = replace(text_base(), objective=Alone())
    batch = resolve(recipe, {}, "x.json", 4).batch
    (head,) = (shape for shape in student_parameters(recipe) if shape.name == "head.weight")
    assert (whole_elements([head], batch), shard_elements([head], batch), padded_elements([head], batch)) == (7, 2, 8)


def test_frozen_parts_have_neither_gradients_nor_moments() -> None:
    recipe = recipe_of("words", "objective.frozen=trunk", "objective.labels=a,b")
    sizes = state_bytes(recipe, resolve(recipe, {}, "x.json", 1))
    head = count_parameters(recipe.objective.head_parameters(recipe.model, recipe.frontend))
    assert sizes["moments"] == 8 * head and sizes["gradients"] == 4 * head < sizes["parameters"]
