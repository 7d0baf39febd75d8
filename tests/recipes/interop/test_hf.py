"""Hugging Face names and settings of Data2VecText, on the golden model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from recipes.errors import ConfigError
from recipes.interop.fairseq import from_fairseq_text, to_fairseq_text
from recipes.interop.hf import fairseq_from_hf_text, text_recipe_from_hf
from recipes.text import text_base

GOLDEN = Path(__file__).parents[2] / "golden"
NAMES: dict[str, str] = json.loads((GOLDEN / "hf/names_text.json").read_text())
"""fairseq name -> Hugging Face name, written down when the golden vectors were made."""
TYPES = "embeddings.token_type_embeddings.weight"
NOT_DATA2VEC = {TYPES, "pooler.dense.weight", "pooler.dense.bias"}
TOKENS = "encoder.sentence_encoder.embed_tokens.weight"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """The golden model as data2vec's are, whose token-type row is zero (the golden one is not)."""
    tensors = load_file(GOLDEN / "hf/text/model.safetensors")
    assert tensors[TYPES].any()
    return tensors | {TYPES: torch.zeros(1, 64)}


@pytest.fixture
def config() -> dict[str, Any]:
    return json.loads((GOLDEN / "hf/text/config.json").read_text())


def test_every_tensor_but_pooler_and_token_types_has_the_golden_fairseq_name(state: dict[str, Tensor]) -> None:
    theirs = fairseq_from_hf_text(state)
    assert set(NAMES.values()) == set(state) - NOT_DATA2VEC
    assert theirs.keys() == NAMES.keys()
    for fairseq_name, hf_name in NAMES.items():
        torch.testing.assert_close(theirs[fairseq_name], state[hf_name], atol=0, rtol=0, msg=hf_name)


def test_golden_names_are_those_of_fairseqs_own_student() -> None:
    student = load_file(GOLDEN / "text/paper/student_init.safetensors")
    assert set(NAMES) == {name for name in student if "regression_head" not in name and not name.endswith("version")}


def test_through_our_names_and_back_is_the_identity(state: dict[str, Tensor]) -> None:
    back = to_fairseq_text(from_fairseq_text(fairseq_from_hf_text(state), 4), list(NAMES), 4, 100)
    for fairseq_name, hf_name in NAMES.items():
        torch.testing.assert_close(back[fairseq_name], state[hf_name], atol=0, rtol=0, msg=hf_name)


@pytest.mark.parametrize("prefix", ["", "data2vec_text."])
def test_a_token_type_row_is_folded_into_the_token_table(state: dict[str, Tensor], prefix: str) -> None:
    types = torch.arange(64.0)[None]
    changed = {prefix + name: tensor for name, tensor in {**state, TYPES: types}.items()}
    theirs = fairseq_from_hf_text(changed)
    torch.testing.assert_close(theirs[TOKENS], state["embeddings.word_embeddings.weight"] + types)
    assert theirs.keys() == NAMES.keys()


def test_tensors_of_a_task_model_are_found_under_its_prefix_and_its_head_left_out(state: dict[str, Tensor]) -> None:
    task = {"data2vec_text." + name: tensor for name, tensor in state.items()} | {"lm_head.dense.weight": torch.zeros(64, 64)}
    assert fairseq_from_hf_text(task).keys() == NAMES.keys()


def test_state_is_not_changed(state: dict[str, Tensor]) -> None:
    before = {name: tensor.clone() for name, tensor in state.items()}
    fairseq_from_hf_text(state)
    assert all(torch.equal(before[name], tensor) for name, tensor in state.items())


def test_recipe_of_the_golden_configuration(config: dict[str, Any]) -> None:
    recipe = text_recipe_from_hf(text_base(), config)
    model, frontend = recipe.model, recipe.frontend
    assert (model.num_layers, model.hidden_size, model.ffn_hidden_size, model.num_attention_heads) == (4, 64, 128, 4)
    assert (model.hidden_dropout, model.attention_dropout, model.activation, model.layernorm_epsilon) == (0.1, 0.1, "gelu", 1e-5)
    assert (frontend.vocab_size, frontend.max_positions, frontend.positions) == (100, 64, "absolute")
    assert not model.normalize_before
    assert recipe.teacher.average_top_k_layers == 4, "K of the template may exceed the layers of the model"


def test_epsilon_and_activation_are_carried_over(config: dict[str, Any]) -> None:
    model = text_recipe_from_hf(text_base(), {**config, "layer_norm_eps": 1e-12, "hidden_act": "relu"}).model
    assert (model.layernorm_epsilon, model.activation) == (1e-12, "relu")


@pytest.mark.parametrize(("key", "value"), [("model_type", "roberta"), ("hidden_act", "gelu_new")])
def test_another_model_or_activation_is_refused_by_name(config: dict[str, Any], key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} '{value}'"):
        text_recipe_from_hf(text_base(), {**config, key: value})
