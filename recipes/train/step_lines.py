"""How far a run is, on the terminal: a bar where there is a terminal to draw it on, lines elsewhere. What the numbers are: metrics.py."""

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from tqdm import tqdm

from recipes.objectives.base import Column, Display
from recipes.system.columns import terminal_columns

RATE = Column("lr", "lr", ".2e")
BAR = "{n_fmt}/{total_fmt} {bar} {desc}  {remaining}"
SHORTEST_BAR, LONGEST_TIME = 4, 8
PLAIN_COLUMNS = 80
"""Of a terminal that does not tell its width."""
QUIET_SECONDS = 30.0
"""After so much silence a log gets a line that says what is being done."""


class StepLines:
    """What rank 0 shows of each step."""

    def __init__(self, display: Display, *, first_step: int, last_step: int) -> None:
        self._display, self._last, self._digits = display, last_step, len(str(last_step))
        columns = terminal_columns()
        self._columns = None if columns is None else columns or PLAIN_COLUMNS
        # nrows: for tqdm a terminal that tells no height has none. miniters: else a step that takes long would not move the bar
        options: dict[str, Any] = {"bar_format": BAR, "ncols": columns, "nrows": 20, "miniters": 1, "disable": not columns}
        self._bar = tqdm(initial=first_step, total=last_step, **options)
        self._facts, self._last_line = [""], time.monotonic()

    def say(self, line: str) -> None:
        """One line, above the bar if there is one."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
        self._last_line = time.monotonic()

    def step(self, step: int) -> None:
        """An update was applied: the bar moves, whether or not the step is logged."""
        self._bar.update(step - self._bar.n)

    def beat(self, step: int, phase: str, micro_batch: int) -> None:
        """The run has come to `phase` after `step` updates: said where nothing else was for long. Cheap: many of them make a step."""
        if not self._bar.disable:
            self._describe([f"evaluating, micro-batch {micro_batch}"] if phase == "evaluate" else self._facts)
        elif time.monotonic() - self._last_line > QUIET_SECONDS:
            self.say(f"at work on step {step + 1}: {phase}, micro-batch {micro_batch}")

    def show(self, metrics: Mapping[str, Any]) -> None:
        """A logged step. On a terminal what an evaluation gave stays, above the bar."""
        first, others = (_cells(columns, metrics) for columns in (self._display.every_step[:1], self._display.every_step[1:]))
        speed = [*_cells((RATE,), metrics), f"{metrics['tokens_per_second']:,.0f} tokens/s"]
        if metrics["mfu"] is not None:
            speed.append(f"MFU {metrics['mfu']:.1%}")
        evaluated = _cells(self._display.at_evaluations, metrics)
        head = f"step {metrics['step']:>{len(str(self._last))}}/{self._last}"
        eta = f"ETA {format_seconds((self._last - metrics['step']) * metrics['step_seconds'])}"
        if self._columns is None:  # a file: one line, however long
            self.say("  ".join([head, *first, *others, *speed, *(["| " + "  ".join(evaluated)] if evaluated else []), eta]))
            return
        self._facts = [*first, *speed, *others]
        if self._bar.disable:
            self.say(_fitting([head, eta, *self._facts], self._columns))
        if evaluated:
            self.say(_fitting([head, *evaluated], self._columns))
        if not self._bar.disable:
            self._describe(self._facts)

    def close(self) -> None:
        """Leave the bar as it is, and the cursor below it."""
        self._bar.close()

    def _describe(self, parts: list[str]) -> None:
        self._bar.ncols = terminal_columns() or PLAIN_COLUMNS  # the window may have another size by now
        taken = 2 * len(str(self._last)) + SHORTEST_BAR + LONGEST_TIME + len("/    ")
        text = _fitting(parts, self._bar.ncols - taken)
        if text != self._bar.desc:
            self._bar.set_description_str(text)


def warn(line: str) -> None:
    """One line on stdout, above a bar if there is one."""
    tqdm.write(line, file=sys.stdout)


def format_seconds(seconds: float) -> str:
    """1 h 02 min, 3 min 20 s or 12 s."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _cells(columns: Iterable[Column], metrics: Mapping[str, Any]) -> list[str]:
    """The columns that the metrics have."""
    return [f"{one.label} {metrics[one.key]:{one.format}}" for one in columns if one.key in metrics]


def _fitting(parts: Iterable[str], columns: int) -> str:
    """As many of the parts, the first ones, as fit into a line."""
    line, *rest = parts
    for part in rest:
        if len(line) + 2 + len(part) > columns - 1:  # a full last column wraps on some terminals
            break
        line += "  " + part
    return line
