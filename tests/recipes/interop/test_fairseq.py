"""fairseq's names and settings in ours and back, on the golden student; what ours cannot express is refused by name."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.config import EncoderConfig, TeacherConfig
from recipes.errors import ConfigError
from recipes.interop.fairseq import from_fairseq_text, text_name, text_recipe_from_fairseq, to_fairseq_text
from recipes.text import text_base

CASE = Path(__file__).parents[2] / "golden/text/paper"
NUM_HEADS, VOCAB_SIZE = 4, 100
PREFIX = "encoder.sentence_encoder."


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return load_file(CASE / "student_init.safetensors")


@pytest.fixture
def config() -> dict[str, Any]:
    return json.loads((CASE / "meta.json").read_text())["config"]


def parameters_of(state: dict[str, Tensor]) -> list[str]:
    return [name for name in state if not name.endswith("version")]


def test_from_fairseq_and_back_is_the_identity(state: dict[str, Tensor]) -> None:
    names = parameters_of(state)
    assert len(names) == len(state) - 1 == 72
    back = to_fairseq_text(from_fairseq_text(state, NUM_HEADS), names, NUM_HEADS, VOCAB_SIZE)
    assert list(back) == names
    for name in names:
        torch.testing.assert_close(back[name], state[name], atol=0, rtol=0, msg=name)


def test_teacher_names_without_prefix_mean_the_same_tensors(state: dict[str, Tensor]) -> None:
    ours = from_fairseq_text(state, NUM_HEADS)
    names = [name for name in load_file(CASE / "teacher_final.safetensors") if not name.endswith("version")]
    back = to_fairseq_text(ours, names, NUM_HEADS, VOCAB_SIZE)
    assert len(names) == 68
    for name, tensor in back.items():
        torch.testing.assert_close(tensor, state[PREFIX + name], atol=0, rtol=0, msg=name)
    teacher = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    for name, tensor in from_fairseq_text(teacher, NUM_HEADS).items():
        torch.testing.assert_close(tensor, ours[name], atol=0, rtol=0, msg=name)


def test_every_tensor_has_a_name_of_ours(state: dict[str, Tensor]) -> None:
    modules = ("attention.qkv", "attention.proj", "attention_norm", "ffn.fc1", "ffn.fc2", "ffn_norm")
    expected = {f"trunk.encoder.layers.{i}.{module}.{leaf}" for i in range(4) for module in modules for leaf in ("weight", "bias")}
    expected |= {f"trunk.frontend.{name}" for name in ("tokens.weight", "positions.weight", "norm.weight", "norm.bias")}
    expected |= {f"head.layers.{i}.{leaf}" for i in range(2) for leaf in ("weight", "bias")}
    assert set(from_fairseq_text(state, NUM_HEADS)) == expected


def test_qkv_is_fused_head_by_head(state: dict[str, Tensor]) -> None:
    """Rows are ordered (head, q/k/v, width), so that a TP slice holds whole heads."""
    ours = from_fairseq_text(state, NUM_HEADS)
    width = 64 // NUM_HEADS
    for leaf in ("weight", "bias"):
        fused = ours[f"trunk.encoder.layers.2.attention.qkv.{leaf}"]
        assert len(fused) == 3 * 64
        for head in range(NUM_HEADS):
            for part, letter in enumerate("qkv"):
                first = (3 * head + part) * width
                expected = state[f"{PREFIX}layers.2.self_attn.{letter}_proj.{leaf}"][head * width : (head + 1) * width]
                torch.testing.assert_close(fused[first : first + width], expected, atol=0, rtol=0)


def test_token_table_is_padded_with_zero_rows(state: dict[str, Tensor]) -> None:
    table = from_fairseq_text(state, NUM_HEADS)["trunk.frontend.tokens.weight"]
    assert tuple(table.shape) == (128, 64)
    torch.testing.assert_close(table[:VOCAB_SIZE], state[PREFIX + "embed_tokens.weight"], atol=0, rtol=0)
    assert not table[VOCAB_SIZE:].any()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("encoder.regression_head.0.weight", "head.layers.0.weight"),
        ("encoder.regression_head.4.bias", "head.layers.2.bias"),
        (PREFIX + "layers.11.self_attn.out_proj.weight", "trunk.encoder.layers.11.attention.proj.weight"),
        (PREFIX + "layers.11.self_attn_layer_norm.bias", "trunk.encoder.layers.11.attention_norm.bias"),
        (PREFIX + "layers.0.final_layer_norm.weight", "trunk.encoder.layers.0.ffn_norm.weight"),
        (PREFIX + "layer_norm.weight", "trunk.encoder.final_norm.weight"),
        ("embed_positions.weight", "trunk.frontend.positions.weight"),
    ],
)
def test_names(theirs: str, ours: str) -> None:
    assert text_name(theirs) == ours


def test_recipe_of_the_released_settings(config: dict[str, Any]) -> None:
    recipe = text_recipe_from_fairseq(text_base(), config, VOCAB_SIZE)
    assert recipe.model == EncoderConfig(
        num_layers=4, hidden_size=64, ffn_hidden_size=128, num_attention_heads=4, hidden_dropout=0.0, attention_dropout=0.0
    )
    assert (recipe.frontend.vocab_size, recipe.frontend.max_positions, recipe.frontend.positions) == (100, 64, "absolute")
    assert recipe.teacher == TeacherConfig(ema_decay=0.9, ema_end_decay=0.99, ema_anneal_end_step=10, average_top_k_layers=3)
    assert (recipe.loss.beta, recipe.loss.scale) == (4, 1)
    assert (recipe.mask, recipe.optim, recipe.run) == (text_base().mask, text_base().optim, text_base().run)


@pytest.mark.parametrize(("theirs", "ours"), [(None, None), (0, None), (-1, None), (0.5, 0.5), (1, 1)])
def test_loss_scale_of_none_or_nothing_positive_is_one_over_root_of_width(config: dict[str, Any], theirs: Any, ours: Any) -> None:
    assert text_recipe_from_fairseq(text_base(), {**config, "loss_scale": theirs}, VOCAB_SIZE).loss.scale == ours


def test_flags_of_the_norms_become_their_names(config: dict[str, Any]) -> None:
    per_layer = [f"{norm}_norm_target_layer" for norm in ("batch", "instance", "layer")]
    flags = [*per_layer, "layer_norm_targets", "instance_norm_targets"]
    teacher = text_recipe_from_fairseq(text_base(), {**config, **dict.fromkeys(flags, True)}, VOCAB_SIZE).teacher
    assert (set(teacher.layer_norms), set(teacher.average_norms)) == ({"batch", "instance", "layer"}, {"layer", "instance"})
    teacher = text_recipe_from_fairseq(text_base(), {**config, **dict.fromkeys(flags, False)}, VOCAB_SIZE).teacher
    assert (teacher.layer_norms, teacher.average_norms) == ((), ())


def test_pre_ln_relu_and_dropouts_are_carried_over(config: dict[str, Any]) -> None:
    config["transformer"].update(activation_fn="relu", dropout=0.1, attention_dropout=0.2, activation_dropout=0.0, relu_dropout=0.3)
    config["transformer"]["encoder"]["normalize_before"] = True
    model = text_recipe_from_fairseq(text_base(), config, VOCAB_SIZE).model
    assert (model.activation, model.normalize_before) == ("relu", True)
    assert (model.hidden_dropout, model.attention_dropout, model.activation_dropout) == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("transformer.activation_fn", "gelu_fast"),
        ("transformer.encoder.learned_pos", False),
        ("transformer.no_token_positional_embeddings", True),
        ("transformer.layernorm_embedding", False),
        ("transformer.no_scale_embedding", False),
        ("transformer.encoder.layerdrop", 0.05),
        ("transformer.base_layers", 1),
        ("transformer.quant_noise.pq", 0.1),
        ("group_norm_target_layer", True),
    ],
)
def test_a_setting_that_ours_cannot_express_is_refused_by_name(config: dict[str, Any], path: str, value: Any) -> None:
    changed = copy.deepcopy(config)
    *sections, key = path.split(".")
    section = changed
    for name in sections:
        section = section[name]
    section[key] = value
    with pytest.raises(ConfigError, match=path.replace(".", r"\.")) as caught:
        text_recipe_from_fairseq(text_base(), changed, VOCAB_SIZE)
    assert repr(value) in str(caught.value)
