"""Signals set a flag while someone listens, and do what they always did afterwards."""

import os
import signal

import pytest

from recipes.train.preempt import STOP_SIGNALS, StopRequest


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_sets_the_reason_and_nothing_else(number: signal.Signals) -> None:
    with StopRequest() as stop:
        assert stop.reason is None
        os.kill(os.getpid(), number)
        assert stop.reason == number.name


def test_schedulers_warnings_and_the_keyboard_are_all_listened_to() -> None:
    assert {signal.SIGTERM, signal.SIGUSR2, signal.SIGINT} == set(STOP_SIGNALS)


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


def test_handlers_are_given_back_even_after_an_error() -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    with pytest.raises(ValueError), StopRequest():
        assert all(signal.getsignal(number) is not before[number] for number in STOP_SIGNALS)
        raise ValueError
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before
