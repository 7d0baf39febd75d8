"""The live state under the checkpoint's names: the same parameters on every topology, every value held for writing exactly once."""

from math import prod
from pathlib import Path

import pytest

from recipes.catalog import RECIPES
from recipes.checkpoint.layout import KINDS, ParameterEntry, Range
from recipes.errors import ConfigError
from tests.distributed import run_distributed
from tests.recipes.checkpoint.topology import Topology, small_recipe

Seen = dict[str, tuple[dict[str, ParameterEntry], list[tuple[str, Range, int]]]]


def describe(topology: Topology, modalities: list[str]) -> Seen:
    """Of each modality: the entries, and what this rank would write as (key, range, elements)."""
    from model.parallel import init_parallel
    from recipes.checkpoint.live import entries, owned_shards
    from recipes.train.engine import build_engines

    parallel, seen = init_parallel(topology.tp_size, "cpu"), {}
    for modality in modalities:
        recipe = small_recipe(modality)
        engines = build_engines(recipe, topology.config(recipe), parallel)
        seen[modality] = entries(engines), [(key, place, shard.numel()) for key, place, shard in owned_shards(engines)]
    return seen


@pytest.fixture(scope="module")
def worlds() -> dict[str, list[Seen]]:
    """What the ranks of three topologies see."""
    asked = {"tp1dp1": list(RECIPES), "tp2dp1": list(RECIPES), "tp2dp2": ["text"]}
    cuts = {"tp1dp1": Topology(), "tp2dp1": Topology(2, 1), "tp2dp2": Topology(2, 2)}
    return {name: run_distributed(describe, cuts[name].world_size, cuts[name], modalities) for name, modalities in asked.items()}


def test_a_parameter_has_one_shape_and_cut_on_every_topology(worlds: dict[str, list[Seen]]) -> None:
    """Megatron flags split parameters at TP 1 too; were one not flagged there, its checkpoint could not be cut again."""
    for modality, (entries, _) in worlds["tp1dp1"][0].items():
        ours = [(name, entry.shape, entry.tp_dim) for name, entry in entries.items()]
        for rank in (rank for ranks in worlds.values() for rank in ranks if modality in rank):
            assert [(name, entry.shape, entry.tp_dim) for name, entry in rank[modality][0].items()] == ours
        assert {tp_dim for *_, tp_dim in ours} == {None, 0, 1}, "replicated, column-parallel and row-parallel ones"


def test_every_value_is_written_by_exactly_one_rank(worlds: dict[str, list[Seen]]) -> None:
    for ranks in worlds.values():
        for modality, (entries, _) in ranks[0].items():
            claims: dict[tuple[str, int], list[tuple[int, int]]] = {}
            for key, place, elements in (item for rank in ranks for item in rank[modality][1]):
                assert place.count == elements > 0 and key.endswith(f"/{place.parameter}")
                claims.setdefault((key, place.tp_rank if place.tp_dim is not None else 0), []).append((place.offset, place.count))
            tp_size = 1 + max(tp_rank for _, tp_rank in claims)
            expected = {f"{kind}/{name}" for kind in KINDS for name in entries if kind != "shadow" or name.startswith("trunk.")}
            assert {key for key, _ in claims} == expected, "the teacher has no head"
            for (key, _), pieces in claims.items():
                check_pieces(key, sorted(pieces), entries[key.partition("/")[2]], tp_size)


def check_pieces(key: str, pieces: list[tuple[int, int]], entry: ParameterEntry, tp_size: int) -> None:
    """One slice's pieces follow on each other from its first to its last element."""
    end = 0
    for offset, count in pieces:
        assert offset == end, key
        end = offset + count
    assert end == prod(entry.shape) // (1 if entry.tp_dim is None else tp_size), key


OURS = {"a": (2, 3), "b": (4,)}
OTHERS: list[tuple[dict[str, tuple[int, ...]], str]] = [
    ({"a": (2, 3), "b": (5,)}, "parameter b is (5,) there and (4,) in this recipe"),
    ({"a": (2, 3)}, "parameter b is absent there and (4,) in this recipe"),
    ({**OURS, "c": (1,)}, "parameter c is (1,) there and absent in this recipe"),
    ({"b": (5,), "a": (3, 2)}, "parameter a is (3, 2) there and (2, 3) in this recipe"),
]


def complaints() -> list[str]:
    """What is said of each of OTHERS, and nothing of another cut of the same."""
    from recipes.checkpoint.live import check_same_architecture

    def manifest(shapes: dict[str, tuple[int, ...]], tp_dim: int | None) -> dict[str, ParameterEntry]:
        return {name: ParameterEntry(shape, tp_dim, 1) for name, shape in shapes.items()}

    check_same_architecture(Path("run/x"), manifest(OURS, 0), manifest(OURS, None))
    said = []
    for theirs, _ in OTHERS:
        with pytest.raises(ConfigError) as caught:
            check_same_architecture(Path("run/x"), manifest(theirs, None), manifest(OURS, None))
        said.append(str(caught.value))
    return said


def test_another_architecture_is_named_by_its_first_parameter_in_the_models_order() -> None:
    (said,) = run_distributed(complaints, 1)
    remedy = "use its recipe or name another --run-dir"
    assert said == [f"run/x: a checkpoint of another architecture: {fact}; {remedy}" for _, fact in OTHERS]
