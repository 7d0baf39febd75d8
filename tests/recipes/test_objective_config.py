"""The base of the objectives' sections: what an objective has that says nothing of its own."""

from model.activations import Storage
from recipes.objective_config import MicroBatchShape, ObjectiveConfig
from recipes.start_config import StartConfig
from recipes.text import text_base


def test_the_base_has_no_head_no_teacher_and_costs_nothing() -> None:
    recipe, shape, plain = text_base(), MicroBatchShape(num_samples=4, own=100, prefix=1), ObjectiveConfig()
    assert plain.num_teachers == 0 and plain.head_parameters(recipe.model, recipe.frontend) == []
    assert plain.head_flops(recipe, 512) == (0, 0) and plain.further_flops(recipe, 512) == {}
    assert plain.head_bytes(recipe, Storage(4, on_gpu=False), shape) == {} and plain.frozen_parameters(recipe) == {}
    assert plain.last_block_share(recipe, shape) == plain.mean_block_share(recipe, shape) == 1
    assert plain.beginning(StartConfig(start_from="run")) == plain.undecided(recipe) == ""


def test_positions_of_a_micro_batch_count_those_before_the_sample() -> None:
    assert MicroBatchShape(num_samples=4, own=100, prefix=1).total == 404
