"""The width of the terminal for a progress bar. With a real terminal: tests/recipes/train/test_step_lines.py."""

import os
import sys

import pytest

from recipes.system.columns import terminal_columns


@pytest.mark.parametrize(
    ("environment", "own", "columns"),
    [
        ({"COLUMNS": "100"}, 80, 100),
        ({"COLUMNS": ""}, 80, 80),
        ({"COLUMNS": "0"}, 80, 0),
        ({"COLUMNS": "30"}, 80, 0),
        ({"COLUMNS": ""}, None, 0),
        ({"COLUMNS": "100", "TERM": "dumb"}, 80, 0),
    ],
)
def test_the_environment_comes_before_the_terminal(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], own: int | None, columns: int
) -> None:
    def size(file: int) -> os.terminal_size:
        if own is None:
            raise OSError
        return os.terminal_size((own, 24))

    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2)
    monkeypatch.setattr(os, "get_terminal_size", size)
    assert terminal_columns() == columns
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert terminal_columns() is None, "a file is not a terminal"
