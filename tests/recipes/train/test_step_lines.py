"""Progress lines of a run, on a terminal of any kind and in a log."""

import os
import pty
import re
import signal
import sys
import time
from types import SimpleNamespace

import pytest

from recipes.objectives.data2vec import Data2Vec
from recipes.train import step_lines
from recipes.train.step_lines import StepLines, format_seconds

ROW = {"loss": 22.2488, "target_std": 0.998, "lr": 1e-4, "tokens_per_second": 10188.4, "mfu": None, "step_seconds": 0.2}
HELD_OUT = {"eval_loss": 18.2899, "explained_variance": -0.167, "target_rank": 69.6}


def show_a_run() -> None:
    """Show six of 2000 updates; the third is logged, the fifth is logged and evaluated."""
    lines = StepLines(Data2Vec.display, first_step=0, last_step=2000)
    for step in range(1, 7):
        lines.beat(step - 1, "forward", 0)
        lines.step(step)
        time.sleep(0.11)  # longer than the bar's shortest interval
        if step == 5:
            lines.beat(step, "evaluate", 7)
            time.sleep(0.11)
            lines.beat(step, "probe", 8)
        if step in (3, 5):
            lines.show(ROW | {"step": step} | (HELD_OUT if step == 5 else {}))
    lines.close()
    print("error: what ended it", file=sys.stderr)


def seen_on_a_terminal(**environment: str) -> list[str]:
    """Return what a run writes to a terminal of unknown size, split at carriage returns and newlines."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.environ.update(environment)
            for number, name in ((1, "stdout"), (2, "stderr")):  # pytest has replaced them
                setattr(sys, name, open(number, "w", buffering=1, closefd=False))  # noqa: SIM115 - until the end
            show_a_run()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)  # skips the exit handlers of pytest
    written = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux reports the end of a terminal like this
            break
        written += part
    os.waitpid(pid, 0)
    os.close(terminal)
    return [line.rstrip() for line in re.split(r"[\r\n]+", written.decode()) if line.strip()]


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_the_bar_moves_with_each_step_and_evaluations_stay_above_it(columns: int) -> None:
    seen = seen_on_a_terminal(COLUMNS=str(columns), TERM="xterm")
    assert [n for n in range(7) if any(line.startswith(f"{n}/2000 ") for line in seen)] == [0, 2, 3, 4, 5, 6], "the first comes too soon"
    assert any("evaluating, micro-batch 7" in line for line in seen) and any("probing, micro-batch 8" in line for line in seen)
    logged = next(line for line in seen if "loss 22.2488" in line)
    assert "lr 1.00e-04  10,188 tokens/s" in logged and ("target_std 0.998" in logged) == (columns == 120)
    assert "step    5/2000  eval_loss 18.2899  explained -0.167  rank 69.6" in seen
    assert all(len(line) <= columns for line in seen)
    assert seen[-1] == "error: what ended it" and seen[-2].startswith("6/2000 "), "below the bar"


@pytest.mark.parametrize("environment", [{"COLUMNS": "0"}, {"TERM": "dumb", "COLUMNS": "80"}, {"COLUMNS": ""}])
def test_a_terminal_that_is_plain_or_reports_no_width_gets_lines_of_80_columns(environment: dict[str, str]) -> None:
    assert seen_on_a_terminal(**{"TERM": "xterm"} | environment) == [
        "step    3/2000  ETA 6 min 39 s  loss 22.2488  lr 1.00e-04  10,188 tokens/s",
        "step    5/2000  ETA 6 min 39 s  loss 22.2488  lr 1.00e-04  10,188 tokens/s",
        "step    5/2000  eval_loss 18.2899  explained -0.167  rank 69.6",
        "error: what ended it",
    ]


def test_a_log_gets_one_line_a_logged_step_with_everything(capsys: pytest.CaptureFixture) -> None:
    show_a_run()
    assert capsys.readouterr().out.splitlines() == [
        "step    3/2000  loss 22.2488  target_std 0.998  lr 1.00e-04  10,188 tokens/s  ETA 6 min 39 s",
        "step    5/2000  loss 22.2488  target_std 0.998  lr 1.00e-04  10,188 tokens/s  | eval_loss 18.2899  explained -0.167  rank 69.6"
        "  ETA 6 min 39 s",
    ]


def test_the_score_of_a_probe_is_printed_with_the_evaluation_or_alone(capsys: pytest.CaptureFixture) -> None:
    lines = StepLines(Data2Vec.display, first_step=0, last_step=2000)
    for row in (ROW | HELD_OUT, ROW):
        lines.show(row | {"step": 5, "probe": 0.8119})
    first, second = capsys.readouterr().out.splitlines()
    assert "| eval_loss 18.2899  explained -0.167  rank 69.6  probe 0.812  ETA" in first
    assert "tokens/s  | probe 0.812  ETA" in second


def test_after_half_a_minute_without_output_a_log_gets_a_line_with_the_phase(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    clock = [0.0]
    monkeypatch.setattr(step_lines, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    lines = StepLines(Data2Vec.display, first_step=0, last_step=9)
    for now, phase, number in ((29, "forward", 1), (31, "backward", 1), (50, "forward", 2), (62, "evaluate", 3)):
        clock[0] = now
        lines.beat(4, phase, number)
    assert capsys.readouterr().out == "at work on step 5: backward, micro-batch 1\nat work on step 5: evaluate, micro-batch 3\n"


def test_a_warning_is_a_line_of_its_own(capsys: pytest.CaptureFixture) -> None:
    step_lines.warn("warning: x")
    assert capsys.readouterr() == ("warning: x\n", "")


@pytest.mark.parametrize(("seconds", "text"), [(0.9, "0 s"), (59, "59 s"), (60, "1 min 00 s"), (200, "3 min 20 s"), (3720, "1 h 02 min")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
