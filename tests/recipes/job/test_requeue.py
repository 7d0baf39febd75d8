"""What happens to a job, from how its ranks ended and the progress of the run."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.job.requeue import MAX_STOPS, Attempt, classify_attempt, decide
from recipes.watch.endings import Ending


def reported(rank: int, code: int, message: str = "", time: float = 100.0) -> Ending:
    return Ending(rank, f"node{rank + 1}", "reported", time, "step 7, forward", code, message)


SILENT = Ending(1, "node2", "silent", 100.2, "step 7, forward")
HUNG = Ending(0, "node1", "hang", 100.0, "step 7, data", None, "stopped")
LOST = reported(0, 1, "RuntimeError: Connection closed by peer")
REFUSED = reported(0, 2, "no such column")


@pytest.mark.parametrize(
    ("endings", "code", "asked", "reason", "kind", "pattern"),
    [
        ([reported(0, 0), reported(1, 0)], 0, False, "done", "done", "done"),
        ([reported(0, 75), reported(1, 75)], 0, False, "SIGTERM", "stopped", "stopped by SIGTERM"),
        ([reported(0, 75), reported(1, 75)], 137, False, "SIGUSR2", "stopped", "stopped by SIGUSR2"),
        ([reported(0, 0), reported(1, 0)], 75, True, "done", "stopped", "stopped on request after the last step"),
        ([reported(0, 0), reported(1, 0)], 2, False, "done", "refused", "after the last step .* exit code 2"),
        ([reported(0, 0), reported(1, 0)], 1, False, "done", "crashed", "after the last step .* exit code 1"),
        ([REFUSED, reported(1, 2, "no such column")], 2, False, None, "refused", "rank 0 on node1 ended with exit code 2.*no such column"),
        ([reported(0, 3, "collapsed"), reported(1, 3)], 3, False, None, "refused", "exit code 3.*collapsed"),
        ([LOST, SILENT], 247, False, None, "crashed", "rank 1 on node2 died without an exit code"),
        ([HUNG, SILENT], 137, True, None, "crashed", "rank 0 on node1 hung \\(stopped\\)"),
        ([reported(0, 1, "KeyError: 'x'"), reported(1, 1, "KeyError: 'x'", 101.0)], 1, False, None, "crashed", "rank 0 .*KeyError"),
        ([], 140, True, None, "stopped", "before the first step"),
        ([], 75, False, None, "stopped", "before the first step"),
        ([], 140, False, None, "stopped", "before the first step"),
        ([], 0, False, None, "done", "done"),
        ([], 2, False, None, "refused", "no rank began to train, srun ended with exit code 2"),
        ([], 137, False, None, "crashed", "no rank began to train, srun ended with exit code 137"),
    ],
)
def test_the_kind_of_an_attempt(endings: list[Ending], code: int, asked: bool, reason: str | None, kind: str, pattern: str) -> None:
    attempt = classify_attempt(endings, code, 5, was_asked=asked, stop_reason=reason)
    assert attempt.kind == kind and attempt.step == 5
    assert re.search(pattern, attempt.reason), attempt.reason


def test_a_finished_run_and_a_users_mistake_are_not_tried_again() -> None:
    done = decide([], Attempt("done", 9, "done"), 0, 3, [0])
    assert (done.verb, done.code) == ("done", 0) and "checkpoint of step 9 (+9" in done.line
    for code in (2, 3):
        refused = decide([], Attempt("refused", 0, "why"), 0, 3, [code])
        assert (refused.verb, refused.code) == ("fail", code) and "not requeued" in refused.line


def test_a_crash_with_progress_is_always_tried_again() -> None:
    history = [Attempt("crashed", 10, "x")] * 20
    assert decide(history, Attempt("crashed", 20, "x"), 10, 1, [1]).verb == "requeue"


@given(st.integers(1, 6), st.integers(0, 8))
def test_a_crash_without_progress_is_tried_max_tries_times(max_tries: int, before: int) -> None:
    history = [Attempt("crashed", 4, "older"), *[Attempt("crashed", 7, "x")] * before]
    action = decide(history, Attempt("crashed", 7, "x"), 7, max_tries, [1])
    assert (action.verb == "hold") == (before + 1 >= max_tries)
    assert f"{before + 1} " in action.line and "x; checkpoint of step 7 (+0" in action.line


def test_stops_on_request_are_not_crashes_but_have_a_limit_too() -> None:
    stopped = Attempt("stopped", 7, "SIGUSR2")
    assert decide([stopped] * (MAX_STOPS - 2), stopped, 7, 1, [75]).verb == "requeue"
    assert decide([stopped] * (MAX_STOPS - 1), stopped, 7, 1, [75]).verb == "hold"
    assert decide([Attempt("crashed", 7, "x")] * 9, stopped, 7, 1, [75]).verb == "requeue", "crashes and stops are counted separately"
