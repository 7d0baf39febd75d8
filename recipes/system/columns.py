"""The width of the terminal on which a progress bar can be drawn. Standard library only."""

import os
import sys

NARROWEST = 40


def terminal_columns() -> int | None:
    """Return the width of the terminal in characters; None if stdout or stderr is not a terminal.

    0 if a progress bar cannot be drawn: the width is unknown or less than NARROWEST, or the variable TERM is `dumb`.
    """
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        return None
    setting = os.environ.get("COLUMNS", "")
    try:
        columns = int(setting) if setting.isdecimal() else os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        columns = 0
    return columns if columns >= NARROWEST and os.environ.get("TERM") != "dumb" else 0
