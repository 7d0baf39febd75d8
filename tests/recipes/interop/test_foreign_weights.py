"""Another project's tensors are converted one at a time; each that is missing, unknown, of a wrong shape, or not finite is named."""

import re

import pytest
import torch
from torch import Tensor

from recipes.errors import ConfigError
from recipes.interop.foreign_weights import ForeignWeights
from recipes.interop.names import NameTable, head_by_head, padded_rows, same, unread

TABLE = NameTable(
    [
        head_by_head(("layer.{n}.q.{leaf}", "layer.{n}.k.{leaf}", "layer.{n}.v.{leaf}"), "layers.{n}.qkv.{leaf}", 2),
        padded_rows("words", "tokens", 5, 8),
        same("norm.{leaf}", "norm.{leaf}"),
        *unread("pooler.{leaf}"),
    ]
)
SHAPES = {"layers.0.qkv.weight": torch.Size((12, 4)), "tokens": torch.Size((8, 4)), "norm.bias": torch.Size((4,))}


def source() -> dict[str, Tensor]:
    state = {f"layer.0.{letter}.weight": torch.randn(4, 4) for letter in "qkv"}
    return state | {"words": torch.randn(5, 4), "norm.bias": torch.randn(4), "pooler.weight": torch.randn(2)}


def weights(state: dict[str, Tensor], read: list[str] | None = None) -> ForeignWeights:
    def tensor(name: str) -> Tensor:
        if read is not None:
            read.append(name)
        return state[name]

    return ForeignWeights(TABLE, state, tensor, "--from here")


def test_a_tensor_is_made_of_its_parts_which_alone_are_read() -> None:
    state, read = source(), list[str]()
    found = weights(state, read)
    assert found.names == list(SHAPES) and found.unread == ["pooler.weight"] and read == []
    assert found.check_names(SHAPES, ()) == []
    ours = found.tensor("layers.0.qkv.weight", torch.Size((12, 4)))
    assert torch.equal(ours, TABLE.to_ours(state)["layers.0.qkv.weight"]) and read == [f"layer.0.{letter}.weight" for letter in "qkv"]
    padded = found.tensor("tokens", SHAPES["tokens"])
    assert torch.equal(padded[:5], state["words"]) and not padded[5:].any()


def test_names_with_a_prefix_are_found_in_the_table() -> None:
    state = {"bias": torch.ones(4)}
    found = ForeignWeights(TABLE, state, state.__getitem__, "--from here", prefix="norm.")
    assert torch.equal(found.tensor("norm.bias", torch.Size((4,))), state["bias"])


def test_what_may_be_missing_is_returned_and_what_must_not_be_is_named_with_its_shape() -> None:
    state = source()
    del state["words"], state["norm.bias"]
    assert weights(state).check_names(SHAPES, ("tokens", "norm.")) == ["tokens", "norm.bias"]
    with pytest.raises(ConfigError, match=r"^--from here: 2 tensors that its .* missing, such as tokens \(8, 4\), norm.bias \(4,\)"):
        weights(state).check_names(SHAPES, ())


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("words", torch.zeros(6, 4), "tensor words is (6, 4), its configuration needs (5, 4)"),
        ("layer.0.k.weight", torch.zeros(3, 4), "tensor layer.0.k.weight is (3, 4), its configuration needs (4, 4)"),
        ("norm.bias", torch.zeros(()), "tensor norm.bias is (), its configuration needs (4,)"),
        ("norm.bias", torch.tensor([1.0, float("nan"), 1, 1]), "1 of 4 values of tensor norm.bias are NaN or infinite"),
        ("layer.0.v.weight", torch.full((4, 4), float("-inf")), "16 of 16 values of tensor layer.0.v.weight are NaN or infinite"),
    ],
)
def test_a_tensor_of_a_wrong_shape_or_that_is_not_finite_is_named(name: str, value: Tensor, complaint: str) -> None:
    found = weights(source() | {name: value})
    with pytest.raises(ConfigError, match=f"^--from here: {re.escape(complaint)}; .*"):
        for ours, shape in SHAPES.items():
            found.tensor(ours, shape)


def test_a_tensor_without_a_place_or_without_its_other_parts_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^--from here: tensor lm_head has no place in this model"):
        weights(source() | {"lm_head": torch.zeros(1)})
    state = source()
    del state["layer.0.k.weight"]
    with pytest.raises(ConfigError, match=r"^--from here: tensor layer\.0\.q\.weight stands without layer\.0\.k\.weight"):
        weights(state).tensor("layers.0.qkv.weight", SHAPES["layers.0.qkv.weight"])
    state = source() | {f"layer.1.{letter}.weight": torch.randn(4, 4) for letter in "qkv"}
    with pytest.raises(ConfigError, match=r"^--from here: the model of its configuration has no tensor layer\.1\.q\.weight"):
        weights(state).check_names(SHAPES, ())
