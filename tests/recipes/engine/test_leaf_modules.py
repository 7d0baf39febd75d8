"""Modules that ZeRO-3 gathers as a whole give the gradients of modules that it gathers one by one, bit for bit; none loses a gradient."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from recipes.engine.leaf_modules import check_leaf_modules, set_leaf_modules
from recipes.errors import ConfigError
from tests.distributed import run_distributed
from tests.recipes.engine.test_build import BY_GATHERS
from tests.recipes.engine.test_recompute import FROZEN, ON, updates_of

BLOCKS = {"leaf_module": {"classes": ["Block"]}}
FRONTEND_FROZEN: dict[str, int | None] = {"trunk.frontend.": None}
LATER: dict[str, int | None] = {"trunk.": 1}


@pytest.mark.parametrize(
    ("world_size", "tp_size", "other", "frozen"),
    [
        (2, 1, {}, {}),
        (2, 1, ON, FRONTEND_FROZEN),
        pytest.param(2, 1, {}, FRONTEND_FROZEN, marks=pytest.mark.slow),
        pytest.param(2, 1, {}, FROZEN, marks=pytest.mark.slow),
        pytest.param(2, 1, ON, LATER, marks=pytest.mark.slow),
        pytest.param(4, 2, ON, {}, marks=pytest.mark.slow),
    ],
    ids=["trained", "frontend_frozen_recomputed", "frontend_frozen", "first_block_frozen", "trunk_frozen_first", "tp2_recomputed"],
)
def test_blocks_as_leaf_modules_give_the_same_gradients_bit_for_bit(
    world_size: int, tp_size: int, other: dict[str, Any], frozen: dict[str, int | None]
) -> None:
    args = (updates_of, world_size, world_size, tp_size)
    plain, leaf = (run_distributed(*args, BY_GATHERS | extra, other, frozen, timeout=100) for extra in ({}, BLOCKS))
    for one, other_one in zip(plain, leaf, strict=True):
        # While a trunk is frozen, DeepSpeed keeps its leaf modules gathered until the step.
        assert frozen or other_one["gathered"] == set()
        for expected, found in zip(one["gradients"], other_one["gradients"], strict=True):
            assert [name for name, gradient in expected.items() if not torch.equal(gradient, found[name])] == []
        assert all(gradient.any() for name, gradient in one["gradients"][-1].items() if name.endswith("fc1.weight")), "no gradient at all"


class Part(nn.Module):
    """A module with one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply by the parameter."""
        return x * self.weight


def leaf_names(frozen: list[float], classes: list[str]) -> list[str]:
    """Return the names of the leaf modules of three parts in a row, of which part i is frozen for the first frozen[i] steps."""
    network = nn.Sequential(*(Part() for _ in frozen))
    set_leaf_modules(network, {"classes": classes}, {f"{number}.weight": steps for number, steps in enumerate(frozen)})
    return [name for name, part in network.named_modules() if getattr(part, "_z3_leaf", False)]


def test_a_part_is_a_leaf_module_only_if_something_in_front_of_it_is_trained_whenever_it_is() -> None:
    never = float("inf")
    assert leaf_names([0, 0, 0], ["Part"]) == ["1", "2"]
    assert leaf_names([never, 0, 0], ["Part"]) == ["0", "2"], "a part that is never trained has no gradient to lose"
    assert leaf_names([2, 0, 0], ["Part"]) == ["2"]
    assert leaf_names([2, 2, 0], ["Part"]) == ["1"]
    assert leaf_names([2, 3, 5], ["Part"]) == ["1", "2"]


def test_a_leaf_module_that_the_network_does_not_have_is_an_error_with_the_classes_that_it_has() -> None:
    for kind, name in (("classes", "Blok"), ("names", "trunk.0"), ("name_suffixes", "ffn")):
        with pytest.raises(ConfigError, match=rf"leaf_module\.{kind}: the network has no submodule {name}; .* Part, Sequential\)$"):
            set_leaf_modules(nn.Sequential(Part()), {kind: [name]}, {"0.weight": 0})


def test_names_and_ends_of_names_choose_single_modules() -> None:
    for kind, names in (("names", ["1"]), ("name_suffixes", ["1"])):
        network = nn.Sequential(Part(), Part(), Part())
        set_leaf_modules(network, {kind: names}, {f"{number}.weight": 0 for number in range(3)})
        assert [getattr(part, "_z3_leaf", False) for part in network] == [False, True, False]


def test_a_leaf_module_whose_input_needs_no_gradient_ends_the_run() -> None:
    network = nn.Sequential(Part(), Part())
    set_leaf_modules(network, {"names": ["1"]}, {"0.weight": 0, "1.weight": 0})
    check_leaf_modules(network, {"0.weight": 0, "1.weight": 0})
    network(torch.ones(1)).backward()
    with torch.no_grad():
        network(torch.ones(1))
    with pytest.raises(ConfigError, match="the input of a Part needs no gradient"):
        network[1](torch.ones(1))


def granular(threshold: int) -> str:
    """Return the error of building text_tiny with a module granularity threshold; "" without one. The gradients must not be lost."""
    try:
        updates_of(1, 1, {"stage3_module_granularity_threshold": threshold}, {}, {})
    except ConfigError as error:
        return str(error)
    return ""


def test_a_granularity_threshold_that_would_lose_gradients_is_an_error() -> None:
    error = run_distributed(granular, 1, 10**7)[0]
    assert re.search(r"threshold makes a leaf module of TaskNetwork, and nothing in front of it is trained; lower the threshold", error)
    assert run_distributed(granular, 1, 0)[0] == ""
