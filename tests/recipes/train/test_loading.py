"""The batches of a rank: an evaluation that counts every sample once, or as many on each rank, and updates from any place in the data."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from recipes.checkpoint.layout import Counters, Manifest
from recipes.data.order import EpochOffset
from recipes.objective_config import ObjectiveConfig
from recipes.train import loading
from recipes.train.loading import MOST_WORKERS, build_loader, cores_of_rank, default_workers, heldout_batches, kept_shuffling
from tests.launching import tiny_recipe
from tests.recipes.data.numbers_data import Numbers

RECIPE = tiny_recipe(run__eval_samples=6, run__seed=3)


@dataclass(frozen=True)
class EverySample(ObjectiveConfig):
    """An objective whose evaluation counts every sample."""

    kind: ClassVar[str] = "every"
    evaluates_every_sample: ClassVar[bool] = True


def ranks(size: int, micro: int = 2) -> list[tuple[Any, Any]]:
    return [(SimpleNamespace(micro_batch_size=micro, dp_size=size), SimpleNamespace(dp_rank=rank, dp_size=size)) for rank in range(size)]


@pytest.mark.parametrize(("config", "called"), [(EverySample(), "every_batch"), (RECIPE.objective, "eval_batches")])
def test_the_objective_decides_whether_every_sample_is_evaluated(
    config: ObjectiveConfig, called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("every_batch", "eval_batches"):
        monkeypatch.setattr(loading, name, lambda *args, name=name, **options: calls.append(name) or iter(()))
    batch, parallel = ranks(2)[1]
    list(heldout_batches(replace(RECIPE, objective=config), Numbers(5), batch, parallel))
    assert calls == [called]


def test_an_evaluation_may_have_fewer_samples_than_ranks() -> None:
    ((own,), (other,)) = (list(heldout_batches(RECIPE, Numbers(3), *ranks(4)[rank])) for rank in (2, 3))
    assert (own.inputs[0, 1], own.is_counted, other.is_counted) == (2, True, False)


def test_a_loader_that_begins_at_a_later_update_reads_what_the_first_one_reads_there() -> None:
    batch: Any = SimpleNamespace(micro_batch_size=4, dp_size=1)
    whole = build_loader(RECIPE, Numbers(40), batch, 0)
    update, epoch, offset = 3, *whole.start_of(3)[1:]
    later = build_loader(RECIPE, Numbers(40), batch, 0, first=EpochOffset(update, epoch, offset))
    assert [whole.positions(number) for number in (3, 4, 7)] == [later.positions(number) for number in (3, 4, 7)]
    whole.close()
    later.close()


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (3, 1), (4, 2), (16, 14), (7.5, 5), (128, MOST_WORKERS)])
def test_by_default_two_cores_of_a_rank_are_left_to_it(cores: float, workers: int) -> None:
    assert default_workers(cores) == workers


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([("a", {0, 1, 2, 3})], [4]),
        ([("a", {0, 1, 2, 3})] * 2 + [("b", {0, 1})], [2, 2, 2]),  # not bound: they share
        ([("a", {0, 1}), ("a", {2, 3, 4})], [2, 3]),  # bound by the launcher
    ],
)
def test_the_cores_of_a_node_are_divided_among_its_ranks_bound_or_not(
    places: list[tuple[str, set[int]]], expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "core_quota", lambda: float("inf"))
    for rank, (_, own) in enumerate(places):
        world: Any = SimpleNamespace(rank=rank, hosts=[host for host, _ in places], gather=lambda value: places)
        monkeypatch.setattr(loading.os, "sched_getaffinity", lambda pid, own=own: own)
        assert cores_of_rank(world) == pytest.approx(expected[rank])


@pytest.mark.parametrize(("content", "expected"), [("400000 100000\n", 2), ("max 100000\n", 4), (None, 4)])
def test_the_quota_of_a_container_is_divided_among_the_ranks(
    content: str | None, expected: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "QUOTA", tmp_path / "cpu.max")
    if content:
        (tmp_path / "cpu.max").write_text(content)
    places = [("a", set(range(8)))] * 2
    monkeypatch.setattr(loading.os, "sched_getaffinity", lambda pid: set(range(8)))
    assert cores_of_rank(SimpleNamespace(rank=0, hosts=["a", "a"], gather=lambda value: places)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("update", "metadata", "expected"),
    [(0, {}, "counted"), (3, {}, "drawn"), (3, {"shuffling": "counted"}, "counted"), (3, {"shuffling": "drawn"}, "drawn")],
)
def test_a_run_keeps_its_shuffling(update: int, metadata: dict[str, str], expected: str) -> None:
    assert kept_shuffling(Manifest(Counters(update=update), 1, 1, {}, (), metadata)) == expected
