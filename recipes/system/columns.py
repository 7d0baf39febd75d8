"""Whether there is a terminal on which a bar can be drawn, and how wide it is. Standard library only."""

import os
import sys

NARROWEST = 40


def terminal_columns() -> int | None:
    """How wide the terminal is on which stdout and stderr are seen; 0 where nothing can be drawn on it, since it does not tell or is a
    plain one, and None where one of them goes elsewhere."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        return None
    said = os.environ.get("COLUMNS", "")
    try:
        columns = int(said) if said.isdecimal() else os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        columns = 0
    return columns if columns >= NARROWEST and os.environ.get("TERM") != "dumb" else 0
