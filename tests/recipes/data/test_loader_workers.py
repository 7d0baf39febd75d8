"""The loader's worker processes: the same batches as without workers, signals are ignored, and they end when the loader is closed."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.partition_parameters import zero_wrapper_for_fp_tensor_constructor

from model.batch import Batch
from recipes.data import shared_memory
from recipes.data.loader import UpdateLoader
from recipes.data.media import BadItem
from recipes.errors import ConfigError
from tests.recipes.data.numbers_data import Numbers, Row, rows_of


def parent_of(pid: int) -> int:
    """Return the id of the process that forked it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def is_running(pid: int) -> bool:
    """True if the process exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_0_1_and_2_workers_give_the_same_batches_with_the_same_bad_items(build: Callable[..., UpdateLoader]) -> None:
    """Batches are in order, whichever worker is faster. A bad item is returned with the batch that contained it, each time it is read."""
    seen = []
    for num_workers in (0, 1, 2):
        loader = build(Numbers(50, bad=7), group=4, num_workers=num_workers)
        loaded = [item for update in range(12) for item in loader.batches(update)]
        seen.append([(rows_of([item]), item.bad) for item in loaded])
    assert seen[0] == seen[1] == seen[2]
    assert [bad for rows, bad in seen[2] if any(row[1] == 7 for row in rows)] == [[BadItem("item 7", "not audio")]] * 2, "once an epoch"
    assert sum(len(bad) for _, bad in seen[2]) == 2


def test_workers_go_on_reading_after_stop_signals_and_close_ends_them(build: Callable[..., UpdateLoader]) -> None:
    loader, plain = build(num_workers=2), build()
    assert rows_of(loader.batches(0)) == rows_of(plain.batches(0))
    pids = loader.worker_pids
    assert len(pids) == 2 and os.getpid() not in map(parent_of, pids), "no copy of a process with threads"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        for pid in pids:
            os.kill(pid, number)
    time.sleep(0.2)
    assert [rows_of(loader.batches(update)) for update in range(1, 9)] == [rows_of(plain.batches(update)) for update in range(1, 9)]
    assert all(map(is_running, pids)) and loader.worker_pids == pids, "the same processes read all updates"
    loader.close()
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if is_running(pid)]


class Fractions(Numbers):
    """The numbers as float32."""

    def collate(self, examples: list[Row]) -> Batch:
        """One micro-batch."""
        batch = super().collate(examples)
        return replace(batch, inputs=batch.inputs.float())


def test_building_a_model_under_zero_init_at_the_same_time_changes_no_batch(
    build: Callable[..., UpdateLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """zero.Init replaces torch.empty in every thread, and torch receives a worker's tensor through torch.empty."""
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", zero_wrapper_for_fp_tensor_constructor(torch.empty, torch.bfloat16, None))
        loader: Any = build(Fractions(50), num_workers=2)
        assert all(pipe.poll(30) for pipe in loader._workers._processes), "the workers have read"
        time.sleep(1)
    plain = build(Fractions(50))
    for update in range(3):
        loaded = loader.batches(update)
        assert all(item.batch.inputs.dtype == torch.float32 for item in loaded)
        assert rows_of(loaded) == rows_of(plain.batches(update))


class Deadly(Numbers):
    """Kills the process that reads sample 5."""

    def example(self, epoch: int, index: int, group: Row) -> Row:
        """One sample."""
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().example(epoch, index, group)


def test_a_killed_worker_is_reported_in_one_line_at_once(build: Callable[..., UpdateLoader]) -> None:
    loader = build(Deadly(8), num_workers=2)
    begin = time.monotonic()
    with pytest.raises(ConfigError, match=r"\(data.num_workers=2\) was killed, probably for lack of memory; .*data.num_workers=0"):
        loader.batches(0)
    assert time.monotonic() - begin < 10
    loader.close()
    assert not any(map(is_running, loader.worker_pids))


def test_too_little_shared_memory_is_noticed_at_the_first_update(
    build: Callable[..., UpdateLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ConfigError, match=r"/dev/shm has 0 MB free.*12 micro-batches of 0.0 MB a rank, ranks on this node: 3.*--shm-size"):
        build(50, num_workers=2, ranks_on_node=3).batches(0)


class Endless(Numbers):
    """Sleeps 1000 seconds in sample 5."""

    def example(self, epoch: int, index: int, group: Row) -> Row:
        """One sample."""
        time.sleep(1000 if index == 5 else 0)
        return super().example(epoch, index, group)


def test_closing_takes_seconds_even_if_a_worker_is_stuck(build: Callable[..., UpdateLoader], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.system.processes.LEAVE_SECONDS", 0.2)
    loader = build(Endless(8), num_workers=2)
    loader._prefetch(0)
    begin = time.monotonic()
    loader.close()
    assert time.monotonic() - begin < 5 and not any(map(is_running, loader.worker_pids))
    loader.close()
