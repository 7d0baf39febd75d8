"""The weights of another project's model in a network of this one."""

from pathlib import Path

import pytest
import torch

from model.parallel import having_a_world, parallel_alone
from recipes.errors import ConfigError
from recipes.interop.hf_import import read_hf_model
from recipes.interop.imported_model import fill
from recipes.interop.trunk import build_trunk
from tests.recipes.interop.hf_copies import copy_golden


def test_all_weights_are_copied_and_missing_ones_are_named(tmp_path: Path) -> None:
    model = read_hf_model(str(copy_golden("speech", tmp_path / "hf")), None, None)
    with having_a_world():
        trunk = build_trunk(model.recipe, torch.device("cpu"), parallel_alone())
    parameters = {f"trunk.{name}": parameter for name, parameter in trunk.named_parameters()}
    assert fill(parameters, model) == []
    for name in model.student.names:
        assert torch.equal(parameters[name], model.student.tensor(name, parameters[name].shape)), name
    head = {"head.layers.0.bias": torch.nn.Parameter(torch.ones(64))}
    assert fill(parameters | head, model) == ["head.layers.0.bias"] and head["head.layers.0.bias"].min() == 1
    with pytest.raises(ConfigError, match=r"1 tensors that its configuration needs are missing, such as trunk\.encoder\.layers\.4\.x"):
        fill(parameters | {"trunk.encoder.layers.4.x": torch.nn.Parameter(torch.ones(1))}, model)
