"""The sections of the objectives: their sizes, and settings that contradict others."""

from dataclasses import replace
from typing import Literal

import pytest

from model.activations import Storage
from model.config import HeadConfig
from recipes.check import check_recipe
from recipes.errors import ConfigError
from recipes.objective_config import (
    OBJECTIVES,
    SPECIAL_LETTERS,
    ClassifyConfig,
    CtcConfig,
    Data2VecConfig,
    MicroBatchShape,
    ObjectiveConfig,
    RegressConfig,
)
from recipes.text import text_base
from tests.launching import tiny_recipe
from tests.recipes.data.labelled_texts import recipe_of


def test_the_kinds_are_the_names_in_config_json() -> None:
    assert list(OBJECTIVES) == ["data2vec", "classify", "regress", "ctc"]


@pytest.mark.parametrize(
    ("config", "outputs"),
    [(ClassifyConfig(labels=("a", "b", "c")), 3), (RegressConfig(), 1), (CtcConfig(alphabet=(*SPECIAL_LETTERS, "a")), 6)],
)
def test_a_head_has_an_output_for_each_class_number_or_letter(config: ClassifyConfig, outputs: int) -> None:
    encoder = tiny_recipe("text").model
    assert config.num_outputs == outputs
    assert config.head_parameters(encoder) == config.head.parameters(encoder.hidden_size, outputs)


def test_fine_tuning_inherits_the_trunk_and_costs_no_teacher() -> None:
    assert (RegressConfig.inherits, RegressConfig.num_teachers) == ("trunk.", 0)
    assert RegressConfig().further_flops(text_base(), 100) == {}
    assert RegressConfig.evaluates_every_sample and not Data2VecConfig.evaluates_every_sample


@pytest.mark.parametrize(
    ("objective", "complaint"),
    [
        (
            RegressConfig(frozen="features"),
            "objective.frozen is features, and text has no convolutions to freeze; --set objective.frozen=nothing",
        ),
        (
            CtcConfig(alphabet=("a", "b")),
            "objective.alphabet begins with a,b; it must begin with <pad>,<s>,</s>,<unk>,|, and the letters follow",
        ),
    ],
)
def test_settings_that_contradict_others_are_one_line(objective: RegressConfig, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_recipe(replace(recipe_of("words"), objective=objective))
    assert str(caught.value) == complaint


def test_a_teacher_must_average_layers_that_are_there() -> None:
    with pytest.raises(ConfigError, match=r"teacher\.average_top_k_layers 2 of model\.num_layers 1"):
        check_recipe(tiny_recipe("text", teacher__average_top_k_layers=2))


@pytest.mark.parametrize("setting", ["objective.label_smoothing=1.5", "objective.class_weights=1,-1", "objective.frozen_steps=-1"])
def test_values_out_of_bounds_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        check_recipe(recipe_of("words", setting))


def test_the_head_is_a_setting() -> None:
    recipe = recipe_of("words", "objective.head.dropout=0.3")
    assert recipe.objective.head == HeadConfig(reads="cls", hidden="tanh", dropout=0.3)  # type: ignore[attr-defined]


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


def test_a_head_on_frozen_weights_needs_no_gradient_of_what_it_reads_unless_it_has_a_norm() -> None:
    recipe, forward = text_base(), 2 * 768 * 3
    for frozen, norm, products in (("nothing", False, 2), ("trunk", False, 1), ("trunk", True, 2)):
        config = ClassifyConfig(labels=("a", "b", "c"), frozen=frozen, head=HeadConfig(reads="mean", hidden="none", norm=norm))  # type: ignore[arg-type]
        assert config.head_flops(recipe, 100) == (forward, products * forward)
    ctc = CtcConfig(alphabet=SPECIAL_LETTERS, head=HeadConfig(reads="positions", hidden="none"))
    assert ctc.head_flops(recipe, 100).forward == 100 * 2 * 768 * 5


@pytest.mark.parametrize(("frozen", "features", "trunk"), [("nothing", True, True), ("features", False, True), ("trunk", False, False)])
def test_what_is_frozen_is_not_trained(frozen: Literal["nothing", "features", "trunk"], features: bool, trunk: bool) -> None:
    config = ClassifyConfig(frozen=frozen, labels=("a", "b", "c"))
    assert (config.trains("features"), config.trains("trunk")) == (features, trunk)
    shape, storage = MicroBatchShape(num_samples=4, own=100, prefix=1), Storage(4, on_gpu=False)
    assert sum(config.head_bytes(text_base(), storage, shape).values()) == 4 * 4 * (3 * 2 * 768 + 4 * 3)
    assert config.further_forward_bytes(text_base(), storage, shape) == {} and shape.total == 404
