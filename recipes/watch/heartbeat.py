"""The heartbeat that a rank leaves in shared memory for its watcher: its place in training, and the time of its last progress.

Standard library only, because the watcher imports nothing else. watch.py writes heartbeats, watcher.py reads them.
"""

import struct
import time
from mmap import mmap
from typing import NamedTuple

PHASES = (
    *("start", "prepare", "data set", "engines", "load", "logs"),
    *("data", "agree", "forward", "backward", "judge", "step", "after step", "evaluate", "probe", "report", "save", "last save", "leave"),
)
"""All phases of a rank: first those of start-up, then those of an update and of what follows it. Another phase is a KeyError."""
SIZE = 64
_NUMBER_OF = {phase: number for number, phase in enumerate(PHASES)}
_LAYOUT, _TIME = struct.Struct("=dqqqqq"), struct.Struct("=d")

Memory = mmap | bytearray


class Heartbeat(NamedTuple):
    """One heartbeat.

    `number` counts heartbeats. All ranks give the same heartbeats in the same order, so the smallest number belongs to the straggler.
    `seconds` is read from time.monotonic, a clock that all processes of a machine share.
    """

    seconds: float
    number: int
    step: int
    micro_batch: int
    phase: str
    is_paused: bool


def write_heartbeat(memory: Memory, number: int, step: int, micro_batch: int, phase: str, *, is_paused: bool) -> None:
    """Write a heartbeat, without a system call. A reader may see a half-written one; it reads again a second later."""
    _LAYOUT.pack_into(memory, 0, time.monotonic(), number, step, micro_batch, _NUMBER_OF[phase], is_paused)


def renew_heartbeat(memory: Memory) -> None:
    """Write the current time only: the rank is at the same place but makes progress. May be called from any thread."""
    _TIME.pack_into(memory, 0, time.monotonic())


def read_heartbeat(memory: Memory) -> Heartbeat:
    """Return the heartbeat that was written last into `memory`."""
    seconds, number, step, micro_batch, phase, is_paused = _LAYOUT.unpack_from(memory, 0)
    return Heartbeat(seconds, number, step, micro_batch, PHASES[phase], bool(is_paused))
