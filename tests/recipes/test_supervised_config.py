"""The sections of the objectives that learn from labels: their sizes, and settings that contradict others."""

from dataclasses import replace
from typing import Literal

import pytest

from model.activations import Storage
from model.config import HeadConfig
from recipes.check import check_recipe
from recipes.errors import ConfigError
from recipes.masked_config import Data2VecConfig
from recipes.objective_config import MicroBatchShape
from recipes.supervised_config import SPECIAL_LETTERS, ClassifyConfig, CtcConfig, RegressConfig
from recipes.text import text_base
from tests.launching import tiny_recipe
from tests.recipes.data.labelled_texts import recipe_of


@pytest.mark.parametrize(
    ("config", "outputs"),
    [(ClassifyConfig(labels=("a", "b", "c")), 3), (RegressConfig(), 1), (CtcConfig(alphabet=(*SPECIAL_LETTERS, "a")), 6)],
)
def test_a_head_has_an_output_for_each_class_number_or_letter(config: ClassifyConfig, outputs: int) -> None:
    recipe = tiny_recipe("text")
    encoder = recipe.model
    assert config.num_outputs == outputs
    assert config.head_parameters(encoder, recipe.frontend) == config.head.parameters(encoder.hidden_size, outputs)


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


@pytest.mark.parametrize("setting", ["objective.label_smoothing=1.5", "objective.class_weights=1,-1", "objective.frozen_steps=-1"])
def test_values_out_of_bounds_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        check_recipe(recipe_of("words", setting))


def test_the_head_is_a_setting() -> None:
    recipe = recipe_of("words", "objective.head.dropout=0.3")
    assert recipe.objective.head == HeadConfig(reads="cls", hidden="tanh", dropout=0.3)  # type: ignore[attr-defined]


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
