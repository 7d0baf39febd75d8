"""What --from may name: runs, checkpoints and Hugging Face directories, and weights that do not belong to their configuration."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.parallel import having_a_world, parallel_alone
from model.trunk import Trunk
from recipes.data.tokenizer import stored_tokenizer
from recipes.errors import ConfigError
from recipes.interop import load_encoder, model_source
from recipes.interop.hf_import import read_hf_model
from recipes.interop.model_source import find_source
from tests.launching import ROOT
from tests.recipes.data.json_tokenizers import saved
from tests.recipes.interop.hf_copies import copy_golden, text_model_with, word_level

TEXTS = ["ba do ki lu me no pa", "ba do ki"]
RUN = ROOT / "tests" / "old_runs" / "text" / "run"


def load(path: Path) -> Trunk:
    with having_a_world():
        return find_source(str(path)).load(torch.device("cpu"), parallel_alone())


def test_a_run_dir_and_its_checkpoint_are_the_same_source() -> None:
    checkpoint = RUN / "checkpoints" / "step_00000020"
    one, two = find_source(str(RUN)), find_source(str(checkpoint))
    assert (one.name, one.step, one.weights, one.recipe) == (str(checkpoint), 20, "student", two.recipe)
    assert two.name == one.name and one.tokenizer() == stored_tokenizer(RUN / "prepared")


def test_the_tokenizer_is_in_the_run_dir_if_the_prepared_data_are_gone(tmp_path: Path) -> None:
    run = Path(shutil.copytree(RUN, tmp_path / "run"))
    shutil.move(run / "prepared" / "tokenizer.model", run)
    shutil.rmtree(run / "prepared")
    assert find_source(str(run)).tokenizer() == stored_tokenizer(RUN / "prepared")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"encoding": 2}))
    assert [find_source(str(one)).tokenizer().encoding for one in (RUN, run)] == [1, 2]


def test_a_hugging_face_directory_has_a_recipe_and_no_step(tmp_path: Path) -> None:
    source = find_source(str(copy_golden("vision", tmp_path / "hf")))
    assert (source.name, source.step, source.recipe.modality) == (str(tmp_path / "hf"), None, "vision")
    assert source.recipe.model.num_layers == 4 and not load(tmp_path / "hf").training


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"hidden_size": None}, r"its configuration \(\d+ settings\) lacks hidden_size; add it$"),
        ({"model_type": "data2vec-smell"}, r"its config.json has model_type 'data2vec-smell'; name a directory of data2vec-text"),
        ({"position_embedding_type": "relative"}, r"position_embedding_type is 'relative', which this model cannot express"),
    ],
)
def test_a_configuration_that_is_no_data2vec_is_refused(change: dict[str, object], complaint: str, tmp_path: Path) -> None:
    folder = copy_golden("text", tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(ConfigError, match=rf"^--from {folder}: {complaint}"):
        find_source(str(folder))


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"num_hidden_layers": 5}, r"12 tensors that its configuration needs are missing, such as trunk\.encoder\.layers\.4\."),
        ({"num_hidden_layers": 3}, r"the model of its configuration has no tensor encoder\.layer\.3\."),
        ({"intermediate_size": 64}, r"tensor encoder\.layer\.0\.\S+ is \(.*128.*\), its configuration needs \(.*64.*\)"),
    ],
)
def test_weights_that_do_not_belong_to_their_configuration_are_refused(config: dict[str, int], complaint: str, tmp_path: Path) -> None:
    folder = copy_golden("text", tmp_path / "hf")
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | config))
    with pytest.raises(ConfigError, match=complaint):
        load(folder)


def test_a_model_with_a_tasks_head_gives_the_same_trunk(tmp_path: Path) -> None:
    plain, task = copy_golden("text", tmp_path / "plain"), copy_golden("text", tmp_path / "task")
    state = load_file(plain / "model.safetensors")
    head = {"classifier.weight": torch.zeros(2, 64)}
    save_file({f"data2vec_text.{name}": tensor for name, tensor in state.items()} | head, task / "model.safetensors")
    for one, two in zip(load(plain).parameters(), load(task).parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_text_model_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = copy_golden("text", tmp_path / "hf")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"the directory has no tokenizer; put the model's tokenizer\.json there$"):
        find_source(str(folder))


def test_saved_padding_and_truncation_of_a_tokenizer_do_not_count(tmp_path: Path) -> None:
    plain = word_level()
    ids = {"plain": load_encoder(text_model_with(plain, tmp_path / "plain"))(TEXTS).padding_mask_BN.sum(1).tolist()}
    padding, cutting = word_level(), word_level()
    padding.enable_padding(length=22, pad_id=1, pad_token="<pad>")
    cutting.enable_truncation(3)
    for name, tokenizer in (("padding", padding), ("cutting", cutting)):
        encoder = load_encoder(text_model_with(tokenizer, tmp_path / name))
        ids[name] = encoder(TEXTS).padding_mask_BN.sum(1).tolist()
        assert encoder(TEXTS).last.shape[1] == 9, "<s>, seven words, </s>"
    assert ids["plain"] == ids["padding"] == ids["cutting"] == [0, 4]


def test_of_two_tokenizers_the_checked_one_encodes_and_is_the_one_that_an_import_keeps(tmp_path: Path) -> None:
    folder = copy_golden("text", tmp_path / "hf")
    saved(word_level(), folder)
    found, imported = find_source(str(folder)).tokenizer().file, read_hf_model(str(folder), None, None).tokenizer.file
    assert found == imported and found.name == "tokenizer.json"


def test_what_is_different_in_the_directory_is_noted(tmp_path: Path) -> None:
    folder = copy_golden("vision", tmp_path / "hf")
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True, "image_mean": [0.5] * 3}))
    (note,) = find_source(str(folder)).notes
    assert "image_mean [0.5, 0.5, 0.5] (here [0.485" in note


def test_a_model_that_cannot_be_trained_as_it_is_can_be_read(tmp_path: Path) -> None:
    folder = copy_golden("speech", tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"conv_stride": [500, *config["conv_stride"][1:]]}))
    assert len(list(load(folder).parameters())) > 10
    with pytest.raises(ConfigError, match=r"as a recipe of this project, mask\.length 10 leaves none of the"):
        read_hf_model(str(folder), None, None)
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 7}))
    with pytest.raises(ConfigError, match=r"model\.hidden_size 64 is not a multiple of model\.num_attention_heads 7"):
        find_source(str(folder))


def test_messages_and_the_name_have_what_the_user_has_named_and_not_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_golden("vision", tmp_path / "cache")
    monkeypatch.setattr(model_source, "find_hf_folder", lambda name, flag: folder)
    assert find_source("some/model").name == "some/model"
    (folder / "config.json").write_text("{")
    for flag in ("--from ", ""):
        with pytest.raises(ConfigError, match=rf"^{flag}some/model: config\.json cannot be read"):
            find_source("some/model", flag=flag)
