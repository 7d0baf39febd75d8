"""A signal to the main thread of another process."""

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes.system import signals
from recipes.system.signals import signal_main_thread
from recipes.watch.watcher import DUMP_SIGNAL, STOPPED, process_state

BUSY = """
import faulthandler, sys, threading
faulthandler.register(int(sys.argv[1]), file=open(sys.argv[2], "ab"), all_threads=True)
for _ in range(8):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
recurse = lambda depth: recurse(depth - 1) if depth else sum(range(20))
print(threading.main_thread().ident, flush=True)
while True:
    for depth in range(700):
        recurse(depth)
"""
NUM_DUMPS = 20
SECONDS = 30


def test_a_stopped_process_dumps_its_stacks_in_its_main_thread_and_does_not_crash(tmp_path: Path) -> None:
    stacks = tmp_path / "stacks"
    process = subprocess.Popen([sys.executable, "-c", BUSY, str(int(DUMP_SIGNAL)), str(stacks)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        current, deadline = f"Current thread 0x{int(process.stdout.readline()):016x}", time.monotonic() + SECONDS
        for count in range(1, NUM_DUMPS + 1):
            os.kill(process.pid, signal.SIGSTOP)
            while process_state(process.pid) != STOPPED:
                time.sleep(0.001)
            signal_main_thread(process.pid, DUMP_SIGNAL)
            os.kill(process.pid, signal.SIGCONT)
            while stacks.read_text().count(current) < count and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    assert stacks.read_text().count(current) == NUM_DUMPS


def test_a_process_that_is_gone_is_an_error() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(ProcessLookupError):
        signal_main_thread(process.pid, DUMP_SIGNAL)


def test_on_an_unlisted_machine_the_kernel_chooses_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(signals.os, "kill", lambda *args: sent.append(args))
    signal_main_thread(7, DUMP_SIGNAL)
    assert sent == [(7, DUMP_SIGNAL)]
