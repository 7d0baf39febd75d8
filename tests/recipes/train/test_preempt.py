"""Signals, a time limit and a file set a flag while a StopRequest is entered. Afterwards the earlier signal handlers are restored."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from recipes.errors import Stopped
from recipes.train import preempt
from recipes.train.preempt import STOP_SIGNALS, StopRequest
from tests.distributed import RankFailure, run_distributed


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_sets_the_reason_and_nothing_else(number: signal.Signals) -> None:
    with StopRequest() as stop:
        assert stop.reason is None and not stop.is_requested()
        os.kill(os.getpid(), number)
        assert stop.reason == number.name and stop.is_requested()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_that_the_parent_had_blocked_is_caught(number: signal.Signals) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        with StopRequest() as stop:
            signal.raise_signal(number)
            assert stop.reason == number.name
        assert number in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])


def test_the_warnings_of_schedulers_and_the_keyboard_are_all_caught() -> None:
    assert {signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP} == set(STOP_SIGNALS)


def test_a_terminal_that_closes_is_no_request_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.reason is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_first_reason_stays() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == "SIGUSR2"


def test_a_second_interrupt_stops_at_once_and_a_second_sigterm_does_not() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.reason == "SIGTERM"


def test_handlers_are_restored_even_after_an_error() -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    with pytest.raises(ValueError), StopRequest():
        assert all(signal.getsignal(number) is not before[number] for number in STOP_SIGNALS)
        raise ValueError
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before


def test_a_time_limit_is_counted_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(preempt.time, "monotonic", lambda: now[0])
    stop = StopRequest(max_minutes=2)
    now[0] += 119.9
    assert not stop.is_requested()
    now[0] += 0.1
    assert stop.is_requested() and stop.reason == "run.max_minutes=2"


def test_without_a_limit_there_is_none() -> None:
    assert not StopRequest(max_minutes=0.0).is_requested()


def test_the_file_is_looked_for_once_per_period_and_removed_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "stop"
    stop = StopRequest(file=file)
    assert not stop.is_requested()
    file.touch()
    assert not stop.is_requested(), "the file server is not queried at every step"
    monkeypatch.setattr(preempt, "FILE_PERIOD_SECONDS", 0.0)
    stop = StopRequest(file=file)
    assert stop.is_requested() and stop.reason == "the file stop (removed)" and file.exists()
    stop.remove_file()
    stop.remove_file()
    assert not file.exists() and stop.is_requested()


def test_a_signal_interrupts_a_preparation_once_and_lets_it_clean_up() -> None:
    with StopRequest() as stop:
        cleaned_up, line = False, "stopped by SIGTERM during preparation; the same command continues"
        with pytest.raises(Stopped, match=line), stop.interruptible("preparation"):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)  # launchers repeat the signal
                cleaned_up = True
        assert cleaned_up and stop.reason == "SIGTERM"
        os.kill(os.getpid(), signal.SIGTERM)  # outside of the block a signal only sets the flag


def test_a_request_from_before_ends_a_preparation_at_its_beginning() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGUSR2)
        with pytest.raises(Stopped, match="SIGUSR2"), stop.interruptible("preparation"):
            pytest.fail("must not begin")


def test_a_second_interrupt_in_a_preparation_stops_at_once() -> None:
    with StopRequest() as stop:
        with pytest.raises(Stopped), stop.interruptible("preparation"):
            os.kill(os.getpid(), signal.SIGINT)
        assert not stop.is_urgent
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_urgent


SHORT_PATIENCE = 0.4
"""Seconds, instead of PATIENCE_SECONDS."""


def hang() -> None:
    """Let rank 0 wait for rank 1 in a collective, where no Python handler runs, and interrupt it twice."""
    if dist.get_rank():
        time.sleep(60)
    preempt.PATIENCE_SECONDS = SHORT_PATIENCE
    with StopRequest():
        for number in (1, 2):
            threading.Timer(0.2 * number, os.kill, (os.getpid(), signal.SIGINT)).start()
        dist.barrier()


def test_a_second_interrupt_ends_a_rank_that_hangs_in_a_collective() -> None:
    start = time.monotonic()
    with pytest.raises(RankFailure, match=r"rank 0: died without a report \(exit code 130\)(.|\n)*interrupted; what was saved stays valid"):
        run_distributed(hang, 2, timeout=40)
    assert time.monotonic() - start < 30


def ask_to_stop() -> None:
    preempt.PATIENCE_SECONDS = SHORT_PATIENCE
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    time.sleep(3 * SHORT_PATIENCE)


def test_a_process_that_has_left_the_block_is_not_ended() -> None:
    run_distributed(ask_to_stop, 1)
