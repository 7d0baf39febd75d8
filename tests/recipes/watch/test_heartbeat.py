"""The layout of the memory that a rank shares with its watcher."""

import time

import pytest

from recipes.watch.heartbeat import PHASES, SIZE, read_heartbeat, renew_heartbeat, write_heartbeat


@pytest.mark.parametrize("phase", PHASES)
def test_a_heartbeat_is_read_as_it_was_written(phase: str) -> None:
    memory = bytearray(SIZE)
    write_heartbeat(memory, 2**40, 2**33, 5, phase, is_paused=True)
    assert read_heartbeat(memory)[1:] == (2**40, 2**33, 5, phase, True)
    before = read_heartbeat(memory).seconds
    time.sleep(0.001)
    renew_heartbeat(memory)
    assert read_heartbeat(memory).seconds > before and read_heartbeat(memory)[1:] == (2**40, 2**33, 5, phase, True)
    assert len(memory) == SIZE, "the size never changes"


def test_empty_memory_is_the_start() -> None:
    assert read_heartbeat(bytearray(SIZE)) == (0.0, 0, 0, 0, "start", False)


def test_an_unknown_phase_is_an_error() -> None:
    with pytest.raises(KeyError):
        write_heartbeat(bytearray(SIZE), 1, 1, 0, "lunch", is_paused=False)
