"""A sample of a long log is what a naive reading of the whole log says."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes.study.log_sample import BLOCK, last_row, sampled_rows

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder: Path, lines: list[str], tail: str = "") -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(line + "\n" for line in lines) + tail)
    return path


def naive(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text().split("\n")[:-1]:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows += [row] if isinstance(row, dict) else []
    return rows


LINES = st.lists(
    st.sampled_from(
        ['{"step": N}', '{"step": N, "probe": 0.5}', '{"step": N, "x": "probe"}', "", "[1]", "{", "null", '{"step": N, "x.probe": 1}']
    )
)


@SETTINGS
@given(LINES, st.integers(1, 50), st.sampled_from(["", "{", '{"probe": 1}']))
def test_a_sample_is_a_part_of_the_log_in_its_order(tmp_path: Path, lines: list[str], most: int, tail: str) -> None:
    path = write(tmp_path, [line.replace("N", str(number)) for number, line in enumerate(lines)], tail)
    whole, found = naive(path), sampled_rows(path, most, ("probe",))
    places = [whole.index(row) for row in found]
    assert places == sorted(set(places))
    assert last_row(path) == (whole[-1] if whole else None)
    if len(lines) <= most:
        assert found == whole
    rare = [row for row in whole if "probe" in row]
    if len(rare) <= most:
        assert all(row in found for row in rare)


@SETTINGS
@given(st.integers(0, 500), st.integers(3, 60))
def test_a_sample_has_the_ends_an_even_spread_and_at_most_so_many(tmp_path: Path, count: int, most: int) -> None:
    path = write(tmp_path, [f'{{"step": {number}}}' for number in range(count)])
    steps = [row["step"] for row in sampled_rows(path, most)]
    assert len(steps) <= most and len(steps) >= min(count, most - 1)
    if count:
        assert {0, min(1, count - 1), count - 1} <= set(steps)
        gaps = [after - before for before, after in pairwise(steps[1:])]
        assert not gaps or max(gaps) <= 1 + count / max(1, most - 2)


def test_rare_rows_are_at_most_so_many_too(tmp_path: Path) -> None:
    lines = [json.dumps({"step": number} | ({"eval_loss": 1.0} if number % 2 else {})) for number in range(1000)]
    found = sampled_rows(write(tmp_path, lines), 10, ("probe", "eval_loss"))
    assert 10 <= len(found) <= 20 and found[-1]["step"] == 999


def test_an_incomplete_last_line_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, ['{"step": 1}'], '{"step": 2, "probe": 0.3}')
    assert sampled_rows(path, 5, ("probe",)) == [{"step": 1}] and last_row(path) == {"step": 1}


def test_no_log_has_no_rows(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path / "missing" / "log", write(tmp_path, []), write(tmp_path, [], '{"step": 1}')):
        assert sampled_rows(path, 5, ("probe",)) == [] and last_row(path) is None


def test_the_last_row_of_a_long_log_is_found_behind_damaged_lines(tmp_path: Path) -> None:
    lines = ['{"step": 1}'] * (BLOCK // 4) + ['{"step": 2}', "{", "[]", "\x00"]
    assert last_row(write(tmp_path, lines)) == {"step": 2}


def test_numbers_that_are_not_finite_are_read(tmp_path: Path) -> None:
    (row,) = sampled_rows(write(tmp_path, ['{"loss": NaN, "probe": Infinity}']), 5)
    assert row["loss"] != row["loss"] and row["probe"] == float("inf")


def test_bytes_that_are_no_text_are_a_damaged_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n')
    assert sampled_rows(path, 5) == [{"step": 1}] and last_row(path) == {"step": 1}


def test_a_folder_instead_of_a_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        sampled_rows(tmp_path, 5)
