"""What is read of a fairseq checkpoint for an imported run: its configuration in every form, both networks, older names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.errors import ConfigError
from recipes.interop.fairseq_import import read_fairseq_model
from recipes.interop.imported_model import ImportedModel
from tests.recipes.interop.sources import (
    EMA,
    FAIRSEQ_CASES,
    VOCAB_SIZE,
    fairseq_config,
    fairseq_state,
    flat,
    sentencepiece_model,
    write_fairseq,
)

TABLE = "encoder.sentence_encoder.embed_tokens.weight"


def read(path: Path, tokenizer: Path | None = None) -> ImportedModel:
    return read_fairseq_model(path, None, tokenizer)


@pytest.mark.parametrize("modality", FAIRSEQ_CASES)
def test_recipe_student_and_teacher_are_those_of_the_checkpoint(modality: str, tmp_path: Path) -> None:
    found = read(write_fairseq(tmp_path / "c.pt", modality))
    recipe: Any = found.recipe
    assert (recipe.model.num_layers, recipe.model.hidden_size, recipe.teacher.average_top_k_layers) == (4, 64, 3)
    assert recipe.teacher.ema_anneal_end_step == 10, "a reference to optimization.max_update"
    assert (recipe.optim, recipe.run) == (found.template.optim, found.template.run)
    assert found.may_lack == () and found.origin == {
        "from": str(tmp_path / "c.pt"),
        "format": "fairseq",
        "model_type": f"data2vec_{modality}",
    }
    name = "trunk.encoder.layers.3.ffn.fc2.bias"
    prefix, own = {"text": ("encoder.sentence_encoder.", "layers.3.fc2.bias"), "audio": ("encoder.", "layers.3.fc2.bias")}.get(
        modality, ("encoder.", "blocks.3.mlp.2.bias")
    )
    state = fairseq_state(modality)
    assert found.teacher is not None
    assert torch.equal(found.student.tensor(name, torch.Size((64,))), state[prefix + own])
    assert torch.equal(found.teacher.tensor(name, torch.Size((64,))), state[EMA[modality]][own])


def test_without_a_teacher_and_without_a_tokenizer_both_are_said(tmp_path: Path) -> None:
    state = fairseq_state("text")
    del state[EMA["text"]]
    found = read(write_fairseq(tmp_path / "c.pt", "text", state))
    assert found.teacher is None and found.notes == ("the checkpoint has no teacher (_ema)",)
    assert "--tokenizer names none; training needs --set data.tokenizer" in found.tokenizer.notes[0] and found.tokenizer.is_needed
    (tmp_path / "t.model").write_bytes(sentencepiece_model())
    assert not read(tmp_path / "c.pt", tmp_path / "t.model").tokenizer.is_needed
    with pytest.raises(ConfigError, match="a model of modality speech reads no tokens"):
        read(write_fairseq(tmp_path / "a.pt", "audio"), tmp_path / "t.model")


@pytest.mark.parametrize("modality", ["audio", "vision"])
def test_arguments_of_an_older_command_are_read_and_others_than_the_models_left(modality: str, tmp_path: Path) -> None:
    config = fairseq_config(modality) | {"ema_anneal_end_step": 10}
    path = write_fairseq(tmp_path / "c.pt", modality, cfg=None, args=flat(config, f"data2vec_{modality}"))
    assert read(path).recipe == read(write_fairseq(tmp_path / "d.pt", modality)).recipe


def test_flat_arguments_of_a_text_model_are_those_of_its_transformer(tmp_path: Path) -> None:
    config = fairseq_config("text") | {"ema_anneal_end_step": 10}
    transformer = config.pop("transformer")
    encoder = {f"encoder_{key}": value for key, value in transformer.pop("encoder").items()}
    path = write_fairseq(tmp_path / "c.pt", "text", cfg=None, args=flat(transformer | config | encoder, "data2vec_text"))
    assert read(path).recipe == read(write_fairseq(tmp_path / "d.pt", "text")).recipe


def test_settings_that_the_checkpoint_lacks_have_fairseqs_defaults(tmp_path: Path) -> None:
    config = fairseq_config("audio")
    for name in ("ema_layers_only", "min_pred_var", "average_top_k_layers", "conv_pos_batch_norm"):
        config.pop(name, None)
    with pytest.raises(ConfigError, match=r"average_top_k_layers 8 of model\.num_layers 4"):
        read(write_fairseq(tmp_path / "c.pt", "audio", cfg={"model": config | {"ema_anneal_end_step": 1}}))
    recipe = read(
        write_fairseq(tmp_path / "d.pt", "audio", cfg={"model": config | {"ema_anneal_end_step": 1, "average_top_k_layers": 2}})
    ).recipe
    assert (recipe.teacher.shares, recipe.guard.min_pred_std) == ("frontend", 0.01)


def test_unknown_settings_are_ignored_if_they_are_off_and_refused_if_not(tmp_path: Path) -> None:
    for modality in ("audio", "vision"):
        config = fairseq_config(modality) | {"ema_anneal_end_step": 1, "new_feature": False, "new_size": None, "new_prob": 0.0}
        read(write_fairseq(tmp_path / "c.pt", modality, cfg={"model": config}))
        with pytest.raises(ConfigError, match=r"^--from \S+c\.pt: new_prob is 0\.5: a setting that this version does not know"):
            read(write_fairseq(tmp_path / "c.pt", modality, cfg={"model": config | {"new_prob": 0.5}}))


def test_names_of_older_checkpoints_are_read(tmp_path: Path) -> None:
    state = fairseq_state("text")
    new = {".layernorm_embedding.": ".emb_layer_norm.", ".regression_head.": ".lm_head."}

    def older(name: str) -> str:
        for now, before in new.items():
            name = name.replace(now, before)
        return name.replace("encoder.", "decoder.", 1) if name.startswith("encoder.") else name

    teacher = {name.replace("layernorm_embedding.", "emb_layer_norm."): tensor for name, tensor in state.pop(EMA["text"]).items()}
    old = {older(name): tensor for name, tensor in state.items()} | {"decoder._ema": teacher}
    found, plain = read(write_fairseq(tmp_path / "c.pt", "text", old)), read(write_fairseq(tmp_path / "d.pt", "text"))
    assert found.teacher is not None and plain.teacher is not None
    assert (found.student.names, found.teacher.names) == (plain.student.names, plain.teacher.names)
    audio = fairseq_state("audio")
    sequential = {name.replace("final_proj.", "final_proj.0."): tensor for name, tensor in audio.items()}
    assert (
        read(write_fairseq(tmp_path / "a.pt", "audio", sequential)).student.names
        == read(write_fairseq(tmp_path / "b.pt", "audio")).student.names
    )


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    state = {name: value.half() if isinstance(value, torch.Tensor) else value for name, value in fairseq_state("text").items()}
    tensor = read(write_fairseq(tmp_path / "c.pt", "text", state)).student.tensor("trunk.frontend.tokens.weight", torch.Size((128, 64)))
    assert tensor.dtype == torch.float32 and torch.equal(tensor[:VOCAB_SIZE], state[TABLE].float())


def model_of(**changes: Any) -> dict[str, Any]:
    return {"cfg": {"model": fairseq_config("text") | {"ema_anneal_end_step": 1, **changes}}}


BAD: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "no configuration": (lambda: {"cfg": None, "args": None}, "has no configuration of a model, neither in `cfg` nor in `args`"),
    "another model": (lambda: model_of(_name="wav2vec2"), "is a fairseq checkpoint of the model 'wav2vec2'; name one of data2vec_text"),
    "version 2": (lambda: model_of(_name="data2vec_multi"), "of the model 'data2vec_multi'"),
    "no name": (lambda: model_of(_name=None), "of the model None"),
    "no transformer": (lambda: model_of(transformer=None), "has a setting of a wrong type"),
    "cannot be expressed": (
        lambda: model_of(group_norm_target_layer=True),
        "group_norm_target_layer is True, which this model cannot express",
    ),
    "no tensors": (lambda: {"model": {}}, "its `model` has no tensors"),
    "no embeddings": (lambda: {"model": {"a": torch.ones(1)}}, f"the weights have no tensor {TABLE}"),
    "unknown tensor": (
        lambda: {"model": fairseq_state("text") | {"encoder.x": torch.ones(1)}},
        r"tensor encoder\.x has no place in this model",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_data2vec_checkpoint_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    changes, complaint = BAD[name]
    path = write_fairseq(tmp_path / "c.pt", "text", **changes())
    with pytest.raises(ConfigError, match=f"^--from {path}: .*{complaint}") as caught:
        read(path)
    assert "\n" not in str(caught.value)
