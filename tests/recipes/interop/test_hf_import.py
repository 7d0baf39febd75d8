"""What is read of a Hugging Face directory for an imported run: recipe, tensors, heads that are left out, tokenizer, notes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.errors import ConfigError
from recipes.interop.hf_format import format_of_modality
from recipes.interop.hf_import import read_hf_model
from recipes.interop.imported_model import ImportedModel
from recipes.interop.imported_run import write_imported_run
from tests.recipes.interop.sources import VOCAB_SIZE, hf_copy, hf_tensors, sentencepiece_model, write_weights

CASES = ("text", "audio", "vision_shared")


def read(folder: Path, recipe: str | None = None, tokenizer: Path | None = None) -> ImportedModel:
    return read_hf_model(str(folder), recipe, tokenizer)


@pytest.mark.parametrize("case", CASES)
def test_the_recipe_is_the_templates_with_the_directorys_network(case: str, tmp_path: Path) -> None:
    found = read(hf_copy(case, tmp_path / "hf"))
    recipe: Any = found.recipe
    assert recipe.name.endswith("_base") and (recipe.model.num_layers, recipe.model.hidden_size) == (4, 64)
    assert recipe.teacher.average_top_k_layers == 4, "not more than there are"
    assert (recipe.optim, recipe.run, recipe.loss) == (found.template.optim, found.template.run, found.template.loss)
    kept = ("init_std", "head_layers", "head_init")
    assert all(getattr(recipe.model, name) == getattr(found.template.model, name) for name in kept)
    assert found.teacher is None and found.origin["format"] == "huggingface"


def test_of_enough_layers_as_many_are_averaged_as_in_the_template(tmp_path: Path) -> None:
    recipe = read(hf_copy("text", tmp_path / "hf", num_hidden_layers=24)).recipe
    assert (recipe.model.num_layers, recipe.teacher.average_top_k_layers) == (24, 10)
    assert read(tmp_path / "hf", "text_large").recipe.teacher.average_top_k_layers == 20


@pytest.mark.parametrize(
    ("case", "prefix"), [("text", "data2vec_text."), ("audio", "data2vec_audio."), ("vision_shared", "data2vec_vision.")]
)
def test_a_tasks_head_is_left_out_and_said(case: str, prefix: str, tmp_path: Path) -> None:
    folder, tensors = hf_copy(case, tmp_path / "hf"), hf_tensors(case)
    plain, shapes = read(folder), {"ffn.fc1.bias": torch.Size((128,)), "attention.proj.bias": torch.Size((64,))}
    expected = {name: plain.student.tensor(f"trunk.encoder.layers.1.{name}", shape) for name, shape in shapes.items()}
    heads = {"classifier.dense.weight": torch.ones(2, 2), "classifier.dense.bias": torch.ones(2), "lm_head.bias": torch.ones(3)}
    write_weights(folder, {prefix + name: tensor for name, tensor in tensors.items()} | heads)
    found = read(folder)
    assert found.notes[0] == "left out: 3 tensors of a task's head (classifier, lm_head)"
    assert found.student.names == plain.student.names and found.recipe == plain.recipe
    assert found.unread.keys() == plain.unread.keys()
    assert all(torch.equal(found.student.tensor(f"trunk.encoder.layers.1.{name}", shapes[name]), expected[name]) for name in shapes)


def test_a_directory_without_further_files_works_and_each_is_named(tmp_path: Path) -> None:
    assert [len((one := read(hf_copy(case, tmp_path / case))).notes) + len(one.tokenizer.notes) for case in CASES] == [1, 1, 1]
    assert "no tokenizer" in read(tmp_path / "text").tokenizer.notes[0]
    assert "no preprocessor_config.json" in read(tmp_path / "audio").notes[0]


def test_a_given_tokenizer_comes_before_the_directorys_and_is_refused_for_other_modalities(tmp_path: Path) -> None:
    folder, given = hf_copy("text", tmp_path / "hf"), tmp_path / "own.model"
    (folder / "tokenizer.model").write_bytes(b"damaged")
    assert "left out" in read(folder).tokenizer.notes[0]
    given.write_bytes(sentencepiece_model())
    file = read(folder, tokenizer=given).tokenizer.file
    assert file is not None and file.content == given.read_bytes()
    with pytest.raises(ConfigError, match=r"own\.model: a model of modality speech reads no tokens"):
        read(hf_copy("audio", tmp_path / "audio"), tokenizer=given)


IMAGES = {
    **{"do_resize": True, "size": {"shortest_edge": 73}, "resample": 3, "do_center_crop": True, "crop_size": {"height": 64, "width": 64}},
    **{"do_normalize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
}
WHOLE = {"size": {"height": 64, "width": 64}, "do_center_crop": False}
AUDIO = {"do_normalize": True, "sampling_rate": 16000, "feature_size": 1}


@pytest.mark.parametrize(
    ("case", "stored", "named"),
    [
        ("vision_shared", IMAGES, []),
        ("vision_shared", {**IMAGES, "crop_size": 64, "image_mean": [0.485000001, 0.456, 0.406], "do_convert_rgb": None}, []),
        ("vision_shared", {**IMAGES, "size": {"shortest_edge": 73, "longest_edge": None}}, []),
        ("vision_shared", {**IMAGES, **WHOLE}, ["size {'height': 64, 'width': 64} (here {", "do_center_crop False"]),
        ("vision_shared", {**IMAGES, "resample": 2}, ["resample 2 (here 3)"]),
        ("vision_shared", {**IMAGES, "resample": None, "do_center_crop": None}, ["resample None (here", "do_center_crop None (here"]),
        ("vision_shared", {**IMAGES, "image_mean": [0.5, 0.5, 0.5], "size": 224}, ["image_mean [0.5, 0.5, 0.5]", "size 224 (here {"]),
        ("vision_shared", {**IMAGES, "do_normalize": False, "rescale_factor": 1 / 128}, ["do_normalize False", "rescale_factor 0.0078125"]),
        ("audio", AUDIO, []),
        ("audio", {**AUDIO, "padding_value": 0, "feature_extractor_type": "SomeExtractor"}, []),
        ("audio", {"do_normalize": False, "sampling_rate": 8000}, ["do_normalize False", "sampling_rate 8000 (here 16000)"]),
    ],
)  # fmt: skip
def test_a_processor_of_another_kind_than_ours_is_named(case: str, stored: dict[str, Any], named: list[str], tmp_path: Path) -> None:
    folder = hf_copy(case, tmp_path / "hf")
    (folder / "preprocessor_config.json").write_text(json.dumps(stored))
    notes = read(folder).notes
    assert len(notes) == bool(named) and all(text in notes[0] for text in named)
    assert not named or notes[0].count("(here ") == len(named)


@pytest.mark.parametrize("case", ["vision_shared", "audio"])
def test_our_own_processor_is_of_our_kind_also_after_transformers_has_saved_it(case: str, tmp_path: Path) -> None:
    from transformers import AutoFeatureExtractor, AutoImageProcessor

    folder = hf_copy(case, tmp_path / "hf")
    recipe = read(folder).recipe
    for name, content in format_of_modality(recipe.modality).processor(recipe, folder).files.items():
        (folder / name).write_bytes(content)
    assert read(folder).notes == ()
    (AutoFeatureExtractor if case == "audio" else AutoImageProcessor).from_pretrained(folder).save_pretrained(folder)
    assert read(folder).notes == ()


def test_a_processor_that_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    folder = hf_copy("audio", tmp_path / "hf")
    for content in ("{", "[]"):
        (folder / "preprocessor_config.json").write_text(content)
        assert "preprocessor_config.json cannot be read" in read(folder).notes[0]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "roberta"}, r"its config\.json has model_type 'roberta'; name a directory of data2vec-text, data2vec-audio"),
        ({"model_type": None}, "has model_type None"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu', which this model cannot express"),
        ({"num_hidden_layers": None}, "lacks num_hidden_layers"),
        ({"max_position_embeddings": "many"}, "has a setting of a wrong type"),
        ({"num_attention_heads": 7}, r"model\.hidden_size 64 is not a multiple of model\.num_attention_heads 7"),
        ({"hidden_size": "64"}, r"model\.hidden_size is '64'|wrong type"),
        ({"vocab_size": 2}, r"frontend\.vocab_size is 2"),
    ],
)  # fmt: skip
def test_another_architecture_or_a_wrong_setting_is_refused_by_name(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    folder = hf_copy("text", tmp_path / "hf", **changes)
    with pytest.raises(ConfigError, match=f"^--from {folder}: .*{complaint}") as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_an_average_of_outputs_has_no_last_norm_and_no_model_has_a_regression_head(tmp_path: Path) -> None:
    assert read(hf_copy("vision_shared", tmp_path / "a")).may_lack == ("head.", "trunk.frontend.mask_vector", "trunk.encoder.final_norm.")
    assert read(hf_copy("vision_shared", tmp_path / "b", use_mean_pooling=False)).may_lack == ("head.", "trunk.frontend.mask_vector")
    assert read(hf_copy("text", tmp_path / "text")).may_lack == ("head.", "trunk.frontend.mask_vector")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    del config["use_mean_pooling"]
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    assert "trunk.encoder.final_norm." in read(tmp_path / "a").may_lack, "transformers' default is an average"


def test_vocabularies_are_those_of_the_embeddings(tmp_path: Path) -> None:
    recipe: Any = read(hf_copy("text", tmp_path / "hf")).recipe
    assert (recipe.frontend.vocab_size, recipe.frontend.max_positions, recipe.data.sequence_length) == (VOCAB_SIZE, 64, 64)


def _with(folder: Path, **tensors: torch.Tensor) -> Path:
    """Replace tensors of a copied directory, by names with "__" for ".", and return it."""
    state = hf_tensors("text") | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    write_weights(hf_copy("text", folder), state)
    return folder


DAMAGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "layers as text": (lambda folder: hf_copy("text", folder, num_hidden_layers="4"), "a setting of a wrong type"),
    "no patches": (lambda folder: hf_copy("vision_shared", folder, patch_size=0), r"frontend\.patch_size is 0|a setting of a wrong type"),
    "list of types": (lambda folder: hf_copy("text", folder, model_type=["a"]), r"its config\.json has model_type \['a'\]"),
    "pooler that is NaN": (lambda folder: _with(folder, pooler__dense__bias=torch.full((64,), torch.nan)), r"pooler\.dense\.bias are NaN"),
    "pooler of 3": (lambda folder: _with(folder, pooler__dense__bias=torch.ones(3)), r"pooler\.dense\.bias is \(3,\), .* needs \(64,\)"),
    "wide types": (
        lambda folder: _with(folder, embeddings__token_type_embeddings__weight=torch.ones(1, 8)),
        r"token_type_embeddings\.weight is \(1, 8\), .* needs \(1, 64\)",
    ),
    "whole numbers": (
        lambda folder: _with(folder, embeddings__LayerNorm__bias=torch.ones(64, dtype=torch.int8)),
        r"tensor embeddings\.LayerNorm\.bias is int8, which is no floating-point weight; save the model in float32",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_directory_is_one_line(name: str, tmp_path: Path) -> None:
    make, complaint = DAMAGED[name]
    folder = make(tmp_path / "hf")
    with pytest.raises(ConfigError, match=complaint) as caught:
        write_imported_run(tmp_path / "run", read_hf_model(str(folder), None, None))
    assert str(caught.value).startswith(f"--from {folder}: ") and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_size_of_an_image_may_be_height_and_width(tmp_path: Path) -> None:
    model: Any = read_hf_model(str(hf_copy("vision_shared", tmp_path / "hf", image_size=[64, 64], patch_size=[8, 8])), None, None)
    assert (model.recipe.frontend.image_size, model.recipe.frontend.patch_size) == (64, 8)
    with pytest.raises(ConfigError, match=r"frontend\.image_size is \[64, 32\]"):
        read_hf_model(str(hf_copy("vision_shared", tmp_path / "wide", image_size=[64, 32])), None, None)


def test_a_run_dir_is_named_as_one(tmp_path: Path) -> None:
    write_imported_run(tmp_path / "run", read_hf_model(str(hf_copy("audio", tmp_path / "hf")), None, None))
    with pytest.raises(ConfigError, match=r"run: is a run dir of this project; it is used as it is, or exported"):
        read_hf_model(str(tmp_path / "run"), None, None)
