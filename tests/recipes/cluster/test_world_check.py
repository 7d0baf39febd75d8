"""The joined processes are the intended run, or one line names the node that differs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from recipes.cluster.world import World
from recipes.cluster.world_check import check_allocation, check_groups, check_same
from recipes.ds_config import BatchPlan, resolve
from recipes.errors import ConfigError
from recipes.settings import apply_overrides
from recipes.text import text_tiny
from tests.distributed import run_distributed


def plan(tp_size: int, across: bool = False) -> BatchPlan:
    return BatchPlan(4, tp_size, 4 // tp_size, 1, 1, across)


def test_every_allocated_node_must_have_joined() -> None:
    check_allocation(("a", "a", "b"), [["a", "b"]] * 3)
    check_allocation(("here",), [[]])
    with pytest.raises(ConfigError, match=r"3 nodes are allocated, 1 joined \(a\), missing: b, c; start one launcher on each node"):
        check_allocation(("a", "a"), [["a", "b", "c"]] * 2)


@pytest.mark.parametrize("hosts", ["aabb", "aaaa"])
def test_groups_inside_nodes_are_accepted(hosts: str) -> None:
    check_groups(tuple(hosts), plan(2))


@pytest.mark.parametrize(("hosts", "ranks"), [("abab", "0 to 1"), ("abbb", "0 to 1"), ("aaab", "2 to 3")])
def test_a_group_that_spans_nodes_is_refused_unless_the_ds_config_requests_it(hosts: str, ranks: str) -> None:
    with pytest.raises(ConfigError, match=rf"ranks {ranks} lie on 2 nodes \(a, b\).*--distribution=block.*across_nodes"):
        check_groups(tuple(hosts), plan(2))
    check_groups(tuple(hosts), plan(2, across=True))


def compare(values: list[dict[str, str]], hosts: tuple[str, ...]) -> str:
    world = World(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), dist.new_group(backend="gloo"), hosts)
    try:
        check_same(world, values[world.rank])
    except ConfigError as error:
        return str(error)
    return "same"


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ("111", "same"),
        ("112", r"c \(1 of 3 ranks\): torch is 2, on a it is 1; make them the same"),
        ("211", r"a \(1 of 3 ranks\): torch is 2, on b it is 1"),
        ("12", r"b \(1 of 2 ranks\): torch is 2, on a it is 1"),
    ],
)
def test_the_node_that_differs_from_most_is_named_on_all_ranks(versions: str, message: str) -> None:
    values = [{"python": "3", "torch": version} for version in versions]
    answers = run_distributed(compare, len(values), values, tuple("abc"[: len(values)]))
    assert len(set(answers)) == 1 and re.match(message, answers[0]), answers


def whole_check(odd: str) -> str:
    """Return the error of check_world on two nodes of which rank 1 differs from rank 0 in `odd`."""
    from recipes.cluster import world_check

    rank = dist.get_rank()
    world = World(rank, 2, torch.device("cpu"), dist.new_group(backend="gloo"), ("a", "b"))
    other = rank == 1
    world_check.checkout_digest = lambda: "other" if other and odd == "checkout" else "this"
    world_check.allocated_nodes = lambda: ["a", "b", "c"] if odd == "node" else ["a", "b"]
    settings = ["optim.lr=1"] if other and odd == "recipe" else []
    content: dict[str, Any] = {"zero_optimization": {"stage": 3, "reduce_bucket_size": 7 if other and odd == "ds_config" else 8}}
    if odd == "group":
        content["megatron"] = {"tensor_model_parallel_size": 2}
    recipe = apply_overrides(text_tiny(), settings)
    environment = {
        "python": "3.12" if other and odd == "python" else "3.11",
        "versions": {"torch": "1" if other and odd == "versions" else "2"},
    }
    try:
        world_check.check_world(world, recipe, resolve(recipe, content, "test", 2), environment)
    except ConfigError as error:
        return str(error)
    return "fine"


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ("nothing", "fine"),
        ("versions", "b .*torch is 1, on a it is 2"),
        ("python", "b .*python is 3.12, on a it is 3.11"),
        ("checkout", "b .*checkout is other, on a it is this"),
        ("recipe", "b .*recipe.optim.lr is 1.0, on a it is"),
        ("ds_config", "b .*deepspeed.zero_optimization.reduce_bucket_size is 7, on a it is 8"),
        ("node", "3 nodes are allocated, 2 joined .*missing: c"),
        ("group", "tensor-parallel ranks 0 to 1 lie on 2 nodes"),
    ],
)
def test_a_run_starts_only_if_code_versions_settings_and_nodes_fit(odd: str, message: str) -> None:
    answers = run_distributed(whole_check, 2, odd)
    assert len(set(answers)) == 1 and re.match(message, answers[0]), answers


def look(folders: list[Path]) -> str:
    from recipes.cluster import world_check

    world_check.APPEARS_SECONDS = 0.3
    world = World(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), dist.new_group(backend="gloo"), ("a", "b"))
    try:
        world_check.check_run_dir(world, folders[world.rank], "this launch\n")
    except ConfigError as error:
        return str(error)
    return "shared"


def test_a_run_dir_that_a_node_does_not_see_is_refused(tmp_path: Path) -> None:
    for name in ("shared", "local"):
        (tmp_path / name).mkdir()
    (tmp_path / "shared" / ".lock").write_text("this launch\n")
    (tmp_path / "local" / ".lock").write_text("another launch\n")
    assert run_distributed(look, 2, [tmp_path / "shared"] * 2) == ["shared"] * 2
    answers = run_distributed(look, 2, [tmp_path / "shared", tmp_path / "local"])
    assert all("b (1 of 2 nodes) do not see what a wrote there; put it on a file system" in answer for answer in answers), answers
