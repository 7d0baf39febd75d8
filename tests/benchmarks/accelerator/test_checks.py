"""The table of checks: its time limits, its functions, and the page that documents it."""

import importlib
import inspect
from pathlib import Path

from accelerator.checks import ALONE, LONGEST_SECONDS, SIDE_BY_SIDE, all_checks, worst_seconds

GUIDE = Path(__file__).parents[3] / "docs" / "gpu.md"


def test_all_time_limits_together_are_at_most_eight_minutes() -> None:
    assert worst_seconds() <= LONGEST_SECONDS == 480


def test_each_check_has_a_name_of_its_own_and_a_function_that_takes_its_arguments() -> None:
    lanes = [*SIDE_BY_SIDE.values(), *ALONE.values()]
    assert len(all_checks()) == sum(map(len, lanes))
    for check in all_checks().values():
        function = getattr(importlib.import_module(check.module), check.function)
        inspect.signature(function).bind(None, *check.arguments)


def test_the_guide_has_a_row_for_each_check() -> None:
    rows = [line.split("|")[1].strip(" `") for line in GUIDE.read_text().splitlines() if line.startswith("| `")]
    assert rows == list(all_checks())
