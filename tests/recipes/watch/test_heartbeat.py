"""The layout of the memory that a rank shares with its watcher."""

import time

import pytest

from recipes.watch.heartbeat import PHASES, SIZE, read_beat, write_beat, write_time


@pytest.mark.parametrize("phase", PHASES)
def test_what_is_written_is_read(phase: str) -> None:
    memory = bytearray(SIZE)
    write_beat(memory, 2**40, 2**33, 5, phase, is_paused=True)
    assert read_beat(memory)[1:] == (2**40, 2**33, 5, phase, True)
    before = read_beat(memory).seconds
    time.sleep(0.001)
    write_time(memory)
    assert read_beat(memory).seconds > before and read_beat(memory)[1:] == (2**40, 2**33, 5, phase, True)
    assert len(memory) == SIZE, "it never grows"


def test_empty_memory_is_the_start() -> None:
    assert read_beat(bytearray(SIZE)) == (0.0, 0, 0, 0, "start", False)


def test_an_unknown_phase_is_an_error() -> None:
    with pytest.raises(KeyError):
        write_beat(bytearray(SIZE), 1, 1, 0, "lunch", is_paused=False)
