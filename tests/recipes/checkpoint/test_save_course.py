"""The course of a save: what it reports during and after writing, which process group it uses, and what it does if the disk fails."""

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
    """In this block the saver calls `function` instead of the function `name`, and passes the original as its first argument."""
    from recipes.checkpoint import save

    original = getattr(save, name)
    setattr(save, name, lambda *args: function(original, *args))
    try:
        yield
    finally:
        setattr(save, name, original)


def follow(run: Any) -> dict[str, Any]:
    """Make a save whose copy takes COPY_SECONDS or more, and whose writing waits for an event. Return what it reports."""
    from recipes.cluster.world import LONGEST_PREPARATION
    from tests.recipes.checkpoint.messages import groups_in_use

    writing, may_continue, found = threading.Event(), threading.Event(), {}

    def copy_slowly(owned: Callable[..., Any], objective: Any) -> Any:
        time.sleep(COPY_SECONDS)
        return owned(objective)

    def hash_late(hashes_of: Callable[..., Any], tensor: Any) -> Any:
        writing.set()
        assert may_continue.wait(WAIT_SECONDS), "the event was not set"
        return hashes_of(tensor)

    with instead_of("owned_shards", copy_slowly), instead_of("hashes_of", hash_late), groups_in_use() as groups:
        start = time.perf_counter()
        run.saver.begin(run.state.counters, {"key": "from the caller"})
        begin_seconds = time.perf_counter() - start
        assert writing.wait(WAIT_SECONDS), "no file was started"
        held, early = time.perf_counter(), run.saver.is_written()
        time.sleep(COPY_SECONDS)
        held = time.perf_counter() - held
        may_continue.set()
        deadline = time.monotonic() + WAIT_SECONDS
        while not run.saver.is_written() and time.monotonic() < deadline:
            time.sleep(0.001)
        found["written"] = early, run.saver.is_written()
        found["outcome"] = outcome = run.saver.finish()
    found["written"] += (run.saver.is_written(),)
    found["times"] = COPY_SECONDS <= outcome.copy_seconds <= begin_seconds, held <= outcome.write_seconds
    (group,) = groups
    found["group"] = group not in (None, run.world.control), timeout_of(group) == timeout_of(run.world.control) == LONGEST_PREPARATION
    return found


def timeout_of(group: Any) -> Any:
    """Return the timeout of the group."""
    import torch

    return group._get_backend(torch.device("cpu")).options._timeout


def close_at_once(run: Any) -> bool:
    """True if a slow save is written when close() returns."""
    from recipes.checkpoint.save import CheckpointSaver
    from tests.recipes.checkpoint.live_run import KEEP

    saver = CheckpointSaver(run.run_dir, run.objective, run.world, KEEP, lambda: time.sleep(OWNER_SECONDS))
    saver.begin(run.state.counters, {})
    saver.close()
    return saver.is_written() and saver.finish().problem is None


def save_on_a_bad_disk(run: Any) -> dict[str, Any]:
    """Make one save in which a file is truncated before the checkpoint is published, and one in which an outdated checkpoint cannot be
    removed."""

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
    run.world.gather(None)  # both ranks have listed the folder
    with instead_of("apply_retention", refuse):
        run.saver.begin(run.state.counters, {})
        kept = run.saver.finish(), newest(run.run_dir)
    return {"lost": lost, "kept": kept}


def save_and_watch(prepared: Path, run_dir: Path) -> dict[str, Any]:
    """Return the results of one rank of two (TP 2)."""
    from tests.recipes.checkpoint.live_run import LiveRun

    run, folders = LiveRun(small_recipe("text"), Topology(tp_size=2), prepared, run_dir), []

    def record(write: Callable[..., str], path: Path, *args: Any) -> str:
        folders.append(path.parent.name)
        return write(path, *args)

    run.train(1)
    run.skip(2)
    with instead_of("write_tensors", record):
        found = follow(run)
        found["counters"] = run.state.counters
        found["closed"] = close_at_once(run)
        found["bad_disk"] = save_on_a_bad_disk(run)
    return found | {"folders": folders}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run dir of the saves."""
    return tmp_path_factory.mktemp("course")


@pytest.fixture(scope="module")
def ranks(small_prepared: Path, run_dir: Path) -> list[dict[str, Any]]:
    """The results of both ranks."""
    return run_distributed(save_and_watch, 2, small_prepared, run_dir)


def test_a_save_is_named_by_its_step_and_keeps_all_counters(ranks: list[dict[str, Any]], run_dir: Path) -> None:
    counters = ranks[0]["counters"]
    assert counters == Counters(step=1, update=3, samples=8, tokens=counters.tokens) and counters.tokens > 0
    assert read_manifest(step_folder(run_dir, 1)).counters == counters
    assert all(found["outcome"].step == 1 for found in ranks)


def test_every_rank_reports_the_bytes_of_all_files(ranks: list[dict[str, Any]], run_dir: Path) -> None:
    assert {found["outcome"].bytes for found in ranks} == {read_manifest(step_folder(run_dir, 1)).num_bytes()}


def test_copy_and_writing_are_timed_separately(ranks: list[dict[str, Any]]) -> None:
    assert all(found["times"] == (True, True) for found in ranks)


def test_is_written_is_true_from_the_end_of_writing_until_finish(ranks: list[dict[str, Any]]) -> None:
    assert all(found["written"] == (False, True, False) for found in ranks)


def test_the_writing_threads_use_their_own_group_with_a_long_timeout(ranks: list[dict[str, Any]]) -> None:
    """Training exchanges objects at the same time. In one group, the two would receive each other's objects."""
    assert all(found["group"] == (True, True) for found in ranks)


def test_close_waits_for_the_running_save(ranks: list[dict[str, Any]]) -> None:
    assert all(found["closed"] for found in ranks)


def test_every_save_writes_into_its_own_hidden_folder(ranks: list[dict[str, Any]]) -> None:
    """A rank that outlived a killed launch may still write into an earlier folder of the same step."""
    names = ranks[0]["folders"]
    assert names == ranks[1]["folders"] and len(set(names)) == len(names) == 4
    assert all(re.fullmatch(rf"\.step_0000000{step}\.\w+\.tmp", name) for step, name in zip((1, 1, 2, 2), names, strict=True))


def test_a_file_that_was_truncated_before_the_checkpoint_is_published_is_a_problem(ranks: list[dict[str, Any]], run_dir: Path) -> None:
    for found in ranks:
        outcome, before, names = found["bad_disk"]["lost"]
        assert re.search(r"rank_00001\.safetensors has \d+ of \d+ bytes", outcome.problem)
        assert (before, names) == (step_folder(run_dir, 1), ["latest", "step_00000001"])


def test_the_new_checkpoint_is_complete_although_an_outdated_one_cannot_be_removed(ranks: list[dict[str, Any]], run_dir: Path) -> None:
    for found in ranks:
        outcome, after = found["bad_disk"]["kept"]
        assert (outcome.problem, outcome.leftover, after) == (None, "Device or resource busy: step_0", step_folder(run_dir, 2))
