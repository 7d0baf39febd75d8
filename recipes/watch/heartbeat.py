"""The signs of life that a rank leaves in memory for its watcher: where it is in training, and when it last got on.

Standard library only: the watcher has nothing else. Who writes: watch.py. Who reads: watcher.py.
"""

import struct
import time
from mmap import mmap
from typing import NamedTuple

PHASES = (
    *("start", "prepare", "data set", "engines", "load", "logs"),
    *("data", "agree", "forward", "backward", "judge", "step", "after step", "evaluate", "report", "save", "last save", "leave"),
)
"""What a rank can be at: from start-up to the first update, then of an update and what follows it. Other phases are a KeyError."""
SIZE = 64
_NUMBER_OF = {phase: number for number, phase in enumerate(PHASES)}
_LAYOUT, _TIME = struct.Struct("=dqqqqq"), struct.Struct("=d")

Memory = mmap | bytearray


class Heartbeat(NamedTuple):
    """One sign of life. All ranks give the same ones in the same order, so `number` says who is behind; `seconds` is the clock of
    time.monotonic, which the processes of a machine share."""

    seconds: float
    number: int
    step: int
    micro_batch: int
    phase: str
    is_paused: bool


def write_heartbeat(memory: Memory, number: int, step: int, micro_batch: int, phase: str, *, is_paused: bool) -> None:
    """Leave a sign of life. No system call. A reader may meet half of one: it reads again a second later."""
    _LAYOUT.pack_into(memory, 0, time.monotonic(), number, step, micro_batch, _NUMBER_OF[phase], is_paused)


def renew_heartbeat(memory: Memory) -> None:
    """Still at the same place, but not stuck. From any thread."""
    _TIME.pack_into(memory, 0, time.monotonic())


def read_heartbeat(memory: Memory) -> Heartbeat:
    """The last sign of life."""
    seconds, number, step, micro_batch, phase, is_paused = _LAYOUT.unpack_from(memory, 0)
    return Heartbeat(seconds, number, step, micro_batch, PHASES[phase], bool(is_paused))
