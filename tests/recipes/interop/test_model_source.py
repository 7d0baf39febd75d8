"""What --from may name: runs, checkpoints and Hugging Face directories, and weights that do not belong to their configuration."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.parallel import having_a_world, parallel_alone
from model.trunk import Trunk
from recipes.errors import ConfigError
from recipes.interop.model_source import find_source
from tests.launching import ROOT
from tests.recipes.interop.hf_copies import copy_golden

RUN = ROOT / "tests" / "old_runs" / "text" / "run"


def load(path: Path) -> Trunk:
    with having_a_world():
        return find_source(str(path)).load(torch.device("cpu"), parallel_alone())


def test_a_run_dir_and_its_checkpoint_are_the_same_source() -> None:
    checkpoint = RUN / "checkpoints" / "step_00000020"
    one, two = find_source(str(RUN)), find_source(str(checkpoint))
    assert (one.name, one.step, one.weights, one.recipe) == (str(checkpoint), 20, "student", two.recipe)
    assert two.name == one.name and one.tokenizer_folder == RUN / "prepared"


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
