"""Both files contain all results, and the table is valid Markdown."""

import json
from pathlib import Path

import pytest

from accelerator.result import CANNOT, FAIL, OK, Outcome, Row, markdown, summary, write_files
from recipes.errors import ConfigError

UPDATE = {
    **{"milliseconds": 312.6, "busy_milliseconds": 93.2, "kernel_calls": 1233, "copies": 315, "device_waits": 2, "stream_waits": 11},
    **{"thousand_tokens_per_second": 89.4, "kernels": [{"name": "void at::native::add<x|y>", "milliseconds": 13.556, "calls": 98.0}]},
}
OUTCOMES = [
    Outcome("shards", 60.0, [Row("text", OK, "fine"), Row("vision", FAIL, "a | b\nc")], 3.0),
    Outcome("step", 60.0, [Row("text_base micro 64", OK, "313 ms", UPDATE)], 5.0),
    Outcome("copies", 10.0, [Row("pixels", CANNOT, "no device")], 1.0),
]


def test_the_worst_row_is_the_status() -> None:
    assert [one.status for one in OUTCOMES] == [FAIL, OK, CANNOT]
    assert Outcome("mixed", 1.0, [Row("a", CANNOT, ""), Row("b", OK, "")]).status == OK
    assert summary(OUTCOMES) == "2 rows ok, 1 failed, 1 cannot run here"


def test_both_files_are_written_with_every_row(tmp_path: Path) -> None:
    write_files(tmp_path, {"device": "cpu", "notes": ["in use by others"]}, OUTCOMES)
    content = json.loads((tmp_path / "check.json").read_text())
    assert [(check["name"], check["status"]) for check in content["checks"]] == [("shards", FAIL), ("step", OK), ("copies", CANNOT)]
    assert content["checks"][1]["rows"][0]["numbers"] == UPDATE and content["notes"] == ["in use by others"]
    assert (tmp_path / "check.md").read_text() == markdown({"device": "cpu", "notes": ["in use by others"]}, OUTCOMES)


def test_numbers_that_are_not_finite_are_words_in_strict_json(tmp_path: Path) -> None:
    row = Row("text", FAIL, "", {"losses": [1.0, float("nan"), -float("inf")], "nested": {"a": (float("nan"),)}})
    write_files(tmp_path, {}, [Outcome("train", 1.0, [row])])
    content = json.loads((tmp_path / "check.json").read_text(), parse_constant=lambda name: 1 // 0)
    assert content["checks"][0]["rows"][0]["numbers"] == {"losses": [1.0, "nan", "-inf"], "nested": {"a": ["nan"]}}


def test_a_failed_write_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--out .*/absent: No such file or directory; name a folder"):
        write_files(tmp_path / "absent", {}, OUTCOMES)


def test_every_table_has_equally_many_cells_in_each_line() -> None:
    text = markdown({"device": "cpu", "notes": ["in use by others"]}, OUTCOMES)
    assert "- device: cpu\n- **in use by others**" in text and "| shards | vision | fail | a / b c |" in text
    assert "| text_base micro 64 | 313 | 93 | 1233 | 315 | 2.0 | 11.0 | 89 |" in text and "| `add<x/y>` | 13.56 | 98 |" in text
    for table in text.split("\n\n"):
        cells = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(cells) <= 1, table
