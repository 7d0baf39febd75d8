"""Hugging Face names and settings of Data2VecText, on the golden model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import BlockConfig, EncoderConfig
from model.frontends.config import TextFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.interop import fairseq_text
from recipes.interop.hf_text import PREFIX, TOKEN_TYPES, TOKENS, fold_token_types, has_token_type, text_names, text_recipe
from recipes.interop.names import without_prefix
from recipes.text import text_base

CASE = "hf/text"
NOT_DATA2VEC = {TOKEN_TYPES, "pooler.dense.weight", "pooler.dense.bias"}
State = dict[str, Tensor]


@pytest.fixture
def settings(config: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return config(CASE)


@pytest.fixture
def recipe(settings: dict[str, Any]) -> Recipe:
    return text_recipe(text_base(), settings)


def test_every_tensor_means_what_the_golden_fairseq_name_means(
    recipe: Recipe, state: Callable[[str], State], hf_names: Callable[[str], dict[str, str]]
) -> None:
    model, names = state(f"{CASE}/model"), hf_names("text")
    assert set(names.values()) == model.keys() - NOT_DATA2VEC
    theirs = fairseq_text.text_names(recipe).to_ours({fairseq: model[hf] for fairseq, hf in names.items()})
    ours = text_names(recipe).to_ours(model)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=0, rtol=0, msg=name)


def test_through_our_names_and_back_is_the_identity(recipe: Recipe, state: Callable[[str], State]) -> None:
    model, table = state(f"{CASE}/model"), text_names(recipe)
    back = table.to_theirs(table.to_ours(model), model)
    assert back.keys() == model.keys() - NOT_DATA2VEC
    for name, tensor in back.items():
        torch.testing.assert_close(tensor, model[name], atol=0, rtol=0, msg=name)


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_token_type_row_is_folded_into_the_token_table_of_a_copy(prefix: str, state: Callable[[str], State]) -> None:
    model = state(f"{CASE}/model")
    assert model[TOKEN_TYPES].any()
    task = {prefix + name: tensor.clone() for name, tensor in model.items()} | {f"{prefix}pooler.dense.bias": torch.zeros(64)}
    folded = fold_token_types(without_prefix(task, PREFIX))
    torch.testing.assert_close(folded[TOKENS], model[TOKENS] + model[TOKEN_TYPES])
    assert folded.keys() == model.keys() - {TOKEN_TYPES}
    assert torch.equal(task[prefix + TOKENS], model[TOKENS]) and fold_token_types(folded) == folded


def test_a_token_type_of_zeros_changes_no_sign() -> None:
    state = {TOKENS: torch.tensor([[-0.0, 1.0]]), TOKEN_TYPES: torch.zeros(1, 2)}
    assert not has_token_type(state) and not has_token_type({}) and has_token_type({TOKEN_TYPES: torch.ones(1, 2)})
    assert bool(fold_token_types(state)[TOKENS][0, 0].signbit())


def test_recipe_of_the_golden_configuration(recipe: Recipe) -> None:
    model, frontend = recipe.model, recipe.frontend
    assert (model.num_layers, model.hidden_size, model.ffn_hidden_size, model.num_attention_heads) == (4, 64, 128, 4)
    assert (model.hidden_dropout, model.attention_dropout, model.activation, model.block.layernorm_epsilon) == (0.1, 0.1, "gelu", 1e-5)
    assert frontend == type(frontend)(vocab_size=100, max_positions=64) and not model.block.normalize_before
    assert recipe.teacher.average_top_k_layers == 4, "K of the template may exceed the layers of the model"


def test_every_setting_reaches_its_setting_here(settings: dict[str, Any]) -> None:
    """Every setting differs from the golden model, from its default, and from every other setting."""
    settings |= {"num_hidden_layers": 3, "hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6, "hidden_act": "relu"}
    settings |= {"hidden_dropout_prob": 0.15, "attention_probs_dropout_prob": 0.2, "layer_norm_eps": 1e-12}
    settings |= {"initializer_range": 0.05, "vocab_size": 333, "max_position_embeddings": 92}
    model = EncoderConfig(
        num_layers=3,
        hidden_size=48,
        ffn_hidden_size=80,
        num_attention_heads=6,
        hidden_dropout=0.15,
        attention_dropout=0.2,
        activation="relu",
        block=BlockConfig(layernorm_epsilon=1e-12),
        init_std=0.05,
    )
    assert text_recipe(text_base(), settings) == replace(
        text_base(),
        model=model,
        frontend=TextFrontendConfig(vocab_size=333, max_positions=90),
        teacher=replace(text_base().teacher, average_top_k_layers=3),
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("model_type", "roberta"), ("hidden_act", "gelu_new"), ("position_embedding_type", "relative_key")],
        *[("is_decoder", True), ("pad_token_id", 0)],
    ],
)
def test_a_setting_that_this_model_cannot_express_is_refused_by_name(settings: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{key} is {value!r}"):
        text_recipe(text_base(), {**settings, key: value})
