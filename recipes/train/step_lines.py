"""Progress of a run on stdout: a bar if stdout is a terminal that can draw one, else lines. The rates are computed in
metrics.py."""

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from tqdm import tqdm

from recipes.objectives.base import Column, Display
from recipes.system.columns import terminal_columns

RATE = Column("lr", "lr", ".2e")
PROBE = Column("probe", "probe", ".3f")
LONG_PHASES = {"evaluate": "evaluating", "probe": "probing"}
"""Phases between updates that a bar shows, each with its words."""
BAR = "{n_fmt}/{total_fmt} {bar} {desc}  {remaining}"
SHORTEST_BAR, LONGEST_TIME = 4, 8
PLAIN_COLUMNS = 80
"""Assumed width of a terminal that does not report one."""
QUIET_SECONDS = 30.0
"""After this time without a line, the log gets a line with the current phase."""


class StepLines:
    """Prints the progress of the run on rank 0: a bar if stdout is a terminal that can draw one, else a line per logged step."""

    def __init__(self, display: Display, *, first_step: int, last_step: int) -> None:
        self._display, self._last, self._digits = display, last_step, len(str(last_step))
        columns = terminal_columns()
        self._columns = None if columns is None else columns or PLAIN_COLUMNS
        # nrows: tqdm takes an unreported height for 0 rows. miniters: without it, a long step would not move the bar
        options: dict[str, Any] = {"bar_format": BAR, "ncols": columns, "nrows": 20, "miniters": 1, "disable": not columns}
        self._bar = tqdm(initial=first_step, total=last_step, **options)
        self._parts, self._last_line = [""], time.monotonic()

    def say(self, line: str) -> None:
        """Print one line, above the bar if there is one."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
        self._last_line = time.monotonic()

    def step(self, step: int) -> None:
        """Move the bar to `step`, the number of applied updates. Also called if the step is not logged."""
        self._bar.update(step - self._bar.n)

    def beat(self, step: int, phase: str, micro_batch: int) -> None:
        """Show that the run has reached `phase` after `step` updates. A bar shows this only for LONG_PHASES. Without a bar, a line is
        printed if none was printed for QUIET_SECONDS. Must be cheap: it is called many times per step."""
        if not self._bar.disable:
            self._describe([f"{LONG_PHASES[phase]}, micro-batch {micro_batch}"] if phase in LONG_PHASES else self._parts)
        elif time.monotonic() - self._last_line > QUIET_SECONDS:
            self.say(f"at work on step {step + 1}: {phase}, micro-batch {micro_batch}")

    def show(self, metrics: Mapping[str, Any]) -> None:
        """Print a logged step. On a terminal the results of an evaluation or a probe stay visible, above the bar."""
        first, others = (_cells(columns, metrics) for columns in (self._display.every_step[:1], self._display.every_step[1:]))
        speed = [*_cells((RATE,), metrics), f"{metrics['tokens_per_second']:,.0f} tokens/s"]
        if metrics["mfu"] is not None:
            speed.append(f"MFU {metrics['mfu']:.1%}")
        evaluated = _cells((*self._display.at_evaluations, PROBE), metrics)
        head = f"step {metrics['step']:>{len(str(self._last))}}/{self._last}"
        eta = f"ETA {format_seconds((self._last - metrics['step']) * metrics['step_seconds'])}"
        if self._columns is None:  # a file: one line of any length
            self.say("  ".join([head, *first, *others, *speed, *(["| " + "  ".join(evaluated)] if evaluated else []), eta]))
            return
        self._parts = [*first, *speed, *others]
        if self._bar.disable:
            self.say(_fitting([head, eta, *self._parts], self._columns))
        if evaluated:
            self.say(_fitting([head, *evaluated], self._columns))
        if not self._bar.disable:
            self._describe(self._parts)

    def close(self) -> None:
        """Close the bar. It stays visible, with the cursor below it."""
        self._bar.close()

    def _describe(self, parts: list[str]) -> None:
        self._bar.ncols = terminal_columns() or PLAIN_COLUMNS  # the window may have been resized
        taken = 2 * len(str(self._last)) + SHORTEST_BAR + LONGEST_TIME + len("/    ")
        text = _fitting(parts, self._bar.ncols - taken)
        if text != self._bar.desc:
            self._bar.set_description_str(text)


def warn(line: str) -> None:
    """Print one line on stdout, above a bar if there is one."""
    tqdm.write(line, file=sys.stdout)


def format_seconds(seconds: float) -> str:
    """Return a duration as text, such as `1 h 02 min`, `3 min 20 s` or `12 s`."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _cells(columns: Iterable[Column], metrics: Mapping[str, Any]) -> list[str]:
    """Return `label value` for each column whose key is in `metrics`, in the order of the columns."""
    return [f"{one.label} {metrics[one.key]:{one.format}}" for one in columns if one.key in metrics]


def _fitting(parts: Iterable[str], columns: int) -> str:
    """Join `parts` with two blanks, from the first one on, as long as the line is shorter than `columns` characters. The first part is
    always in it."""
    line, *rest = parts
    for part in rest:
        if len(line) + 2 + len(part) > columns - 1:  # some terminals wrap if the last column is used
            break
        line += "  " + part
    return line
