"""The live state under the checkpoint's names: the same parameters on every topology, and every value written by exactly one rank."""

from math import prod
from pathlib import Path

import pytest

from recipes.catalog import RECIPES
from recipes.checkpoint.layout import ParameterEntry, Range
from recipes.errors import ConfigError
from tests.distributed import run_distributed
from tests.recipes.checkpoint.topology import KINDS, Topology, small_recipe

Seen = dict[str, tuple[dict[str, ParameterEntry], list[tuple[str, Range, int]]]]


def describe(topology: Topology, modalities: list[str], *settings: str) -> Seen:
    """Return for each modality the entries, and what this rank would write as (key, range, elements)."""
    from model.parallel import init_parallel
    from recipes.checkpoint.live import entries, owned_shards
    from recipes.objectives.registry import build_objective

    parallel, seen = init_parallel(topology.tp_size, "cpu"), {}
    for modality in modalities:
        recipe = small_recipe(modality, *settings)
        objective = build_objective(recipe, topology.config(recipe), parallel)
        seen[modality] = entries(objective), [(key, place, shard.numel()) for key, place, shard in owned_shards(objective)]
    return seen


CUTS = {"tp1dp1": Topology(), "tp2dp1": Topology(2, 1), "tp2dp2": Topology(2, 2), "padded": Topology(dp_size=3)}
PADDED = ("model.hidden_size=4", "model.ffn_hidden_size=8", "model.num_attention_heads=1", "run.global_batch_size=6")
"""Sizes with which the last of three data-parallel ranks holds a part of the matrices, and none of a norm's four values."""


@pytest.fixture(scope="module")
def worlds() -> dict[str, list[Seen]]:
    """The results of describe() on four topologies. The last one has a model whose partitions have padding."""
    arguments = {"tp1dp1": [list(RECIPES)], "tp2dp1": [list(RECIPES)], "tp2dp2": [["text"]], "padded": [["text"], *PADDED]}
    return {name: run_distributed(describe, cut.world_size, cut, *arguments[name]) for name, cut in CUTS.items()}


def test_a_parameter_has_one_shape_and_cut_on_every_topology(worlds: dict[str, list[Seen]]) -> None:
    """Megatron marks split parameters at TP 1 too. Without the mark, a checkpoint of TP 1 could not be split for other topologies."""
    for modality, (entries, _) in worlds["tp1dp1"][0].items():
        ours = [(name, entry.shape, entry.tp_dim) for name, entry in entries.items()]
        same = [rank for name, ranks in worlds.items() if name != "padded" for rank in ranks]
        for rank in (rank for rank in same if modality in rank):
            assert [(name, entry.shape, entry.tp_dim) for name, entry in rank[modality][0].items()] == ours
        assert {tp_dim for *_, tp_dim in ours} == {None, 0, 1}, "replicated, column-parallel and row-parallel parameters"


def test_every_value_is_written_by_exactly_one_rank(worlds: dict[str, list[Seen]]) -> None:
    for ranks in worlds.values():
        for modality, (entries, _) in ranks[0].items():
            written: dict[tuple[str, int], list[tuple[int, int]]] = {}
            for key, place, elements in (item for rank in ranks for item in rank[modality][1]):
                assert place.count == elements > 0 and key.endswith(f"/{place.parameter}")
                written.setdefault((key, place.tp_rank if place.tp_dim is not None else 0), []).append((place.offset, place.count))
            tp_size = 1 + max(tp_rank for _, tp_rank in written)
            expected = {f"{kind}/{name}" for kind in KINDS for name in entries if kind != "shadow" or name.startswith("trunk.")}
            assert {key for key, _ in written} == expected, "the teacher has no head"
            for (key, _), pieces in written.items():
                check_pieces(key, sorted(pieces), entries[key.partition("/")[2]], tp_size)


def test_a_range_records_its_slice_and_an_entry_records_the_partition(worlds: dict[str, list[Seen]]) -> None:
    """The loader does not need all of it today. A tool that reads a single file does."""
    for name, ranks in worlds.items():
        for number, rank in enumerate(ranks):
            for entries, held in rank.values():
                check_places(CUTS[name], number, entries, [place for _, place, _ in held])


def check_places(cut: Topology, rank: int, entries: dict[str, ParameterEntry], places: list[Range]) -> None:
    """Check the ranges of a rank. Neighbouring ranks are in one tensor-parallel group."""
    for place in places:
        entry = entries[place.parameter]
        size = 1 if entry.tp_dim is None else cut.tp_size
        shape = tuple(n // size if dim == entry.tp_dim else n for dim, n in enumerate(entry.shape))
        assert (place.tp_dim, place.tp_rank, place.tp_size, place.local_shape) == (entry.tp_dim, rank % size, size, shape), place
        assert entry.partition == -(-prod(shape) // cut.dp_size)
        assert place.offset == rank // cut.tp_size * entry.partition


def test_padding_is_held_by_the_last_rank_and_not_written(worlds: dict[str, list[Seen]]) -> None:
    entries, held = worlds["padded"][2]["text"]
    assert any(0 < place.count < entries[place.parameter].partition for _, place, _ in held), "a part is padding"
    assert entries.keys() - {place.parameter for _, place, _ in held}, "all of it is padding"


def check_pieces(key: str, pieces: list[tuple[int, int]], entry: ParameterEntry, tp_size: int) -> None:
    """Check that the pieces of one slice cover it without gaps or overlap."""
    end = 0
    for offset, count in pieces:
        assert offset == end, key
        end = offset + count
    assert end == prod(entry.shape) // (1 if entry.tp_dim is None else tp_size), key


OURS = {"a": (2, 3), "b": (4,)}
OTHERS: list[tuple[dict[str, tuple[int, ...]], str]] = [
    ({"a": (2, 3), "b": (5,)}, "parameter b is (5,) in the checkpoint and (4,) in this recipe"),
    ({"a": (2, 3)}, "parameter b is absent in the checkpoint and (4,) in this recipe"),
    ({**OURS, "c": (1,)}, "parameter c is (1,) in the checkpoint and absent in this recipe"),
    ({"b": (5,), "a": (3, 2)}, "parameter a is (3, 2) in the checkpoint and (2, 3) in this recipe"),
]


def architecture_errors() -> list[str]:
    """Return the error for each of OTHERS. Another split of the same architecture raises none."""
    from recipes.checkpoint.live import check_same_architecture

    def manifest(shapes: dict[str, tuple[int, ...]], tp_dim: int | None) -> dict[str, ParameterEntry]:
        return {name: ParameterEntry(shape, tp_dim, 1) for name, shape in shapes.items()}

    check_same_architecture(Path("run/x"), manifest(OURS, 0), manifest(OURS, None))
    errors = []
    for theirs, _ in OTHERS:
        with pytest.raises(ConfigError) as caught:
            check_same_architecture(Path("run/x"), manifest(theirs, None), manifest(OURS, None))
        errors.append(str(caught.value))
    return errors


def test_another_architecture_is_named_by_its_first_parameter_in_the_models_order() -> None:
    (errors,) = run_distributed(architecture_errors, 1)
    remedy = "use its recipe or name another --run-dir"
    assert errors == [f"run/x: a checkpoint of another architecture: {fact}; {remedy}" for _, fact in OTHERS]
