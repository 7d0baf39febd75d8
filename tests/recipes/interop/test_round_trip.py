"""Hugging Face -> import -> export: every tensor is bit-identical, and the configuration is the same in every field that a model reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from recipes.interop.export import export
from recipes.interop.hf_import import read_hf_model
from recipes.interop.imported_run import write_imported_run
from recipes.interop.stored_run import find_stored_run
from tests.recipes.interop.hf_copies import copy_golden

NOT_READ = {"architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path"}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def circle(source: Path, tmp_path: Path) -> Path:
    """Import the directory `source`, export the run, and return the exported directory."""
    write_imported_run(tmp_path / "run", read_hf_model(str(source), None, None))
    export(find_stored_run(tmp_path / "run"), "student", tmp_path / "out")
    return tmp_path / "out"


def compare(source: Path, exported: Path, expected: dict[str, torch.Tensor] | None = None) -> None:
    """Compare tensors and configuration of two directories. `expected`: the tensors of the source, if they are in no single file."""
    from transformers import AutoConfig

    expected, found = expected or load_file(source / "model.safetensors"), load_file(exported / "model.safetensors")
    assert found.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])] == []
    before, after = (AutoConfig.from_pretrained(folder).to_dict() for folder in (source, exported))
    assert {key: (value, after.get(key)) for key, value in before.items() if key not in NOT_READ and after.get(key) != value} == {}


@pytest.mark.parametrize("case", ["text", "speech", "vision"])
def test_golden_models_come_back_as_they_were(case: str, tmp_path: Path) -> None:
    source = copy_golden(case, tmp_path / "hf")
    compare(source, circle(source, tmp_path))


def random_text(**settings: Any) -> Any:
    """Return a small random text model, in which no tensor is constant."""
    from transformers import Data2VecTextConfig, Data2VecTextModel

    return Data2VecTextModel(Data2VecTextConfig(vocab_size=50, max_position_embeddings=20, layer_norm_eps=1e-5, **SMALL, **settings))


def random_audio() -> Any:
    """Return a small random speech model without a mask vector."""
    from transformers import Data2VecAudioConfig, Data2VecAudioModel

    sizes = {"conv_dim": (16,) * 7, "num_conv_pos_embedding_groups": 4, "conv_bias": True, "mask_time_prob": 0.0}
    return Data2VecAudioModel(Data2VecAudioConfig(**sizes, **SMALL))


def random_vision() -> Any:
    """Return a small random vision model with a bias per layer, a norm after the last block, and no mask vector."""
    from transformers import Data2VecVisionConfig, Data2VecVisionModel

    sizes = {"image_size": 32, "patch_size": 8, "use_relative_position_bias": True, "use_mean_pooling": False}
    return Data2VecVisionModel(Data2VecVisionConfig(**sizes, **SMALL))


MODELS: dict[str, Callable[[], Any]] = {
    "text": lambda: random_text(type_vocab_size=1),
    "text, two types of tokens": lambda: random_text(type_vocab_size=2, hidden_act="relu", attention_probs_dropout_prob=0.2),
    "speech, no mask vector": random_audio,
    "vision, bias per layer": random_vision,
}


@pytest.mark.parametrize("name", MODELS)
def test_random_models_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "hf")
    compare(tmp_path / "hf", circle(tmp_path / "hf", tmp_path))


def test_shards_and_an_old_bin_come_back_as_one_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = random_text(type_vocab_size=1)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    compare(tmp_path / "shards", circle(tmp_path / "shards", tmp_path / "1"), expected)
    model.config.save_pretrained(tmp_path / "old")
    torch.save(expected, tmp_path / "old" / "pytorch_model.bin")
    compare(tmp_path / "old", circle(tmp_path / "old", tmp_path / "2"), expected)
