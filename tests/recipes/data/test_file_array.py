"""Numbers in a file: any part, in any process, and never in the thread that trains."""

import os
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recipes.data import file_array
from recipes.data.file_array import FileArray
from recipes.errors import ConfigError
from recipes.modalities.registry import MODALITIES
from recipes.train.loading import build_loader, heldout_batches
from tests.launching import tiny_recipe


@pytest.mark.parametrize("offset", [0, 24])
def test_any_part_is_read_also_by_a_copy_in_another_process(offset: int, tmp_path: Path) -> None:
    numbers = np.arange(1000, dtype=np.uint16)
    (tmp_path / "numbers").write_bytes(bytes(offset) + numbers.tobytes())
    array = FileArray(tmp_path / "numbers", "uint16", offset)
    for one in (array, pickle.loads(pickle.dumps(array))):
        one.will_read(7, 1000)
        assert one[3:10].tolist() == numbers[3:10].tolist() and one[5:5].tolist() == [] and one[999:1000].dtype == np.uint16


def test_it_closes_its_file(tmp_path: Path) -> None:
    (tmp_path / "numbers").write_bytes(bytes(8))
    array, before = FileArray(tmp_path / "numbers", np.int64), os.listdir("/proc/self/fd")
    assert array[0:1].tolist() == [0] and len(os.listdir("/proc/self/fd")) == len(before) + 1
    del array
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_file_that_was_cut_off_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "numbers").write_bytes(bytes(100))
    with pytest.raises(ConfigError, match="numbers: ends before byte 104; remove its folder and prepare it again"):
        FileArray(tmp_path / "numbers", np.int64)[10:13]


@pytest.mark.parametrize("packing", ["padded", "documents"])
def test_a_slow_file_system_does_not_hold_the_training_thread(packing: str, tiny_prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a read of the next update hangs, the thread that trains goes on. It reads nothing itself, in an evaluation neither. (os.pread
    and os.posix_fadvise let other threads of Python run.)"""
    readers, is_there, asked = set[str](), threading.Event(), list[int]()
    pread, advise = os.pread, os.posix_fadvise

    def slow_read(descriptor: int, size: int, offset: int) -> bytes:
        readers.add(threading.current_thread().name.split("_")[0])
        assert is_there.wait(20)
        return pread(descriptor, size, offset)

    def noted(descriptor: int, offset: int, size: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        asked.append(offset)
        advise(descriptor, offset, size, advice)

    calls: Any = SimpleNamespace(**{**vars(os), "pread": slow_read, "posix_fadvise": noted})
    monkeypatch.setattr(file_array, "os", calls)
    changes = {"teacher__layer_norms": "layer", "teacher__average_norms": ""} if packing == "documents" else {}
    recipe = tiny_recipe(data__path=tiny_prepared, data__packing=packing, run__global_batch_size=4, **changes)
    train, heldout = MODALITIES["text"].open_data(recipe, tiny_prepared)
    batch: Any = SimpleNamespace(micro_batch_size=2, dp_size=1)
    loader = build_loader(recipe, train, batch, 0)
    is_there.set()
    loader.batches(0)
    loader.batches(1)
    is_there.clear()
    assert loader.first_of(3) is None and loader.start_of(3).update == 3 and loader.positions(3)
    is_there.set()
    assert len(loader.batches(2)) == 2
    parallel: Any = SimpleNamespace(dp_rank=0, dp_size=1)
    assert list(heldout_batches(recipe, heldout, batch, parallel))
    loader.close()
    assert readers == {"data"} and len(set(asked)) > 8
