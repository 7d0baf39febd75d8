"""The course of a save: what it tells meanwhile and afterwards, in which group its ranks agree, and what it does when the disk is odd."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from recipes.checkpoint.layout import Counters, newest, read_manifest, step_folder
from tests.distributed import run_distributed
from tests.recipes.checkpoint.topology import Topology, small_recipe

COPY_SECONDS = 0.05
OWNER_SECONDS = 0.1
WAIT_SECONDS = 60


@contextmanager
def instead_of(name: str, function: Callable[..., Any]) -> Iterator[None]:
    """In this block the saver calls `function`, whose first argument is what it calls otherwise."""
    from recipes.checkpoint import save

    kept = getattr(save, name)
    setattr(save, name, lambda *args: function(kept, *args))
    try:
        yield
    finally:
        setattr(save, name, kept)


def follow(run: Any) -> dict[str, Any]:
    """A save whose copy takes COPY_SECONDS and more, and whose writing waits until it is let go."""
    from recipes.cluster.world import LONGEST_PREPARATION
    from tests.recipes.checkpoint.messages import groups_in_use

    writing, let_go, found = threading.Event(), threading.Event(), {}

    def copy_slowly(owned: Callable[..., Any], objective: Any) -> Any:
        time.sleep(COPY_SECONDS)
        return owned(objective)

    def hash_late(hashes_of: Callable[..., Any], tensor: Any) -> Any:
        writing.set()
        assert let_go.wait(WAIT_SECONDS), "nobody let the save go on"
        return hashes_of(tensor)

    with instead_of("owned_shards", copy_slowly), instead_of("hashes_of", hash_late), groups_in_use() as groups:
        start = time.perf_counter()
        run.saver.begin(run.state.counters, {"said": "by the caller"})
        begun = time.perf_counter() - start
        assert writing.wait(WAIT_SECONDS), "no file was begun"
        held, early = time.perf_counter(), run.saver.is_written()
        time.sleep(COPY_SECONDS)
        held = time.perf_counter() - held
        let_go.set()
        deadline = time.monotonic() + WAIT_SECONDS
        while not run.saver.is_written() and time.monotonic() < deadline:
            time.sleep(0.001)
        found["written"] = early, run.saver.is_written()
        found["outcome"] = outcome = run.saver.finish()
    found["written"] += (run.saver.is_written(),)
    found["times"] = COPY_SECONDS <= outcome.copy_seconds <= begun, held <= outcome.write_seconds
    (group,) = groups
    found["group"] = group not in (None, run.world.control), timeout_of(group) == timeout_of(run.world.control) == LONGEST_PREPARATION
    return found


def timeout_of(group: Any) -> Any:
    """How long an exchange in the group may take."""
    import torch

    return group._get_backend(torch.device("cpu")).options._timeout


def close_at_once(run: Any) -> bool:
    """Whether a save that takes its time is written when close() returns."""
    from recipes.checkpoint.save import CheckpointSaver
    from tests.recipes.checkpoint.live_run import KEEP

    saver = CheckpointSaver(run.run_dir, run.objective, run.world, KEEP, lambda: time.sleep(OWNER_SECONDS))
    saver.begin(run.state.counters, {})
    saver.close()
    return saver.is_written() and saver.finish().problem is None


def meet_an_odd_disk(run: Any) -> dict[str, Any]:
    """A file that loses its end before the checkpoint is published, and an outdated checkpoint that cannot be removed."""

    def lose(write_manifest: Callable[..., Any], folder: Path, manifest: Any) -> None:
        path = folder / "rank_00001.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        write_manifest(folder, manifest)

    def refuse(apply_retention: Callable[..., Any], *args: Any) -> None:
        raise OSError(16, "Device or resource busy", "step_0")

    run.train(1)
    with instead_of("write_manifest", lose):
        run.saver.begin(run.state.counters, {})
        lost = run.saver.finish(), newest(run.run_dir), sorted(path.name for path in (run.run_dir / "checkpoints").iterdir())
    run.world.gather(None)  # both have looked
    with instead_of("apply_retention", refuse):
        run.saver.begin(run.state.counters, {})
        kept = run.saver.finish(), newest(run.run_dir)
    return {"lost": lost, "kept": kept}


def save_and_watch(prepared: Path, run_dir: Path) -> dict[str, Any]:
    """One rank of two (TP 2)."""
    from tests.recipes.checkpoint.live_run import LiveRun

    run, folders = LiveRun(small_recipe("text"), Topology(tp_size=2), prepared, run_dir), []

    def note(write: Callable[..., str], path: Path, *args: Any) -> str:
        folders.append(path.parent.name)
        return write(path, *args)

    run.train(1)
    run.skip(2)
    with instead_of("write_tensors", note):
        found = follow(run)
        found["counters"] = run.state.counters
        found["closed"] = close_at_once(run)
        found["odd"] = meet_an_odd_disk(run)
    return found | {"folders": folders}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the saves go."""
    return tmp_path_factory.mktemp("course")


@pytest.fixture(scope="module")
def ranks(small_prepared: Path, run_dir: Path) -> list[dict[str, Any]]:
    """What both ranks saw."""
    return run_distributed(save_and_watch, 2, small_prepared, run_dir)


def test_a_save_is_of_the_updates_and_keeps_the_number_of_batches(ranks: list[dict[str, Any]], run_dir: Path) -> None:
    counters = ranks[0]["counters"]
    assert counters == Counters(step=1, update=3, samples=8, tokens=counters.tokens) and counters.tokens > 0
    assert read_manifest(step_folder(run_dir, 1)).counters == counters
    assert all(found["outcome"].step == 1 for found in ranks)


def test_every_rank_tells_the_bytes_of_all_files(ranks: list[dict[str, Any]], run_dir: Path) -> None:
    assert {found["outcome"].bytes for found in ranks} == {read_manifest(step_folder(run_dir, 1)).num_bytes()}


def test_the_copy_is_timed_apart_from_the_writing(ranks: list[dict[str, Any]]) -> None:
    assert all(found["times"] == (True, True) for found in ranks)


def test_a_save_is_written_when_its_files_are_and_until_its_outcome_is_taken(ranks: list[dict[str, Any]]) -> None:
    assert all(found["written"] == (False, True, False) for found in ranks)


def test_the_writing_threads_agree_in_a_group_of_their_own_that_may_wait_long(ranks: list[dict[str, Any]]) -> None:
    """Training exchanges objects at the same time; in one group they would take each other's."""
    assert all(found["group"] == (True, True) for found in ranks)


def test_close_waits_for_the_running_save(ranks: list[dict[str, Any]]) -> None:
    assert all(found["closed"] for found in ranks)


def test_every_save_writes_into_a_hidden_folder_of_its_own(ranks: list[dict[str, Any]]) -> None:
    """A rank that outlived a killed launch may still write into the one before, of the same step."""
    names = ranks[0]["folders"]
    assert names == ranks[1]["folders"] and len(set(names)) == len(names) == 4
    assert all(re.fullmatch(rf"\.step_0000000{step}\.\w+\.tmp", name) for step, name in zip((1, 1, 2, 2), names, strict=True))


def test_a_file_that_lost_its_end_before_the_checkpoint_was_published_is_a_problem(ranks: list[dict[str, Any]], run_dir: Path) -> None:
    for found in ranks:
        outcome, before, names = found["odd"]["lost"]
        assert re.search(r"rank_00001\.safetensors has \d+ of \d+ bytes", outcome.problem)
        assert (before, names) == (step_folder(run_dir, 1), ["latest", "step_00000001"])


def test_an_outdated_checkpoint_that_stays_makes_no_failure_of_the_new_one(ranks: list[dict[str, Any]], run_dir: Path) -> None:
    for found in ranks:
        outcome, after = found["odd"]["kept"]
        assert (outcome.problem, outcome.leftover, after) == (None, "Device or resource busy: step_0", step_folder(run_dir, 2))
