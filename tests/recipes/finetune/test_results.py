"""results.json: each key has one entry, files of older releases are converted, and no other entry is lost."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from recipes.errors import ConfigError
from recipes.finetune.results import NAME, add_result, check_writable, read_results

ENTRY = {"run": None, "task": "classify", "data": "/flowers", "label_column": "label", "split": "test", "weights": "student", "mean": 0.5}


def test_an_entry_replaces_that_with_the_same_key_and_every_other_one_is_kept(tmp_path: Path) -> None:
    others = [
        ENTRY | change for change in ({"run": "/b"}, {"task": "cloze"}, {"data": "/digits"}, {"split": "valid"}, {"weights": "teacher"})
    ]
    others.append(ENTRY | {"label_column": "fine"})
    for entry in (ENTRY, *others, ENTRY | {"mean": 0.75}):
        assert add_result(tmp_path, entry) == tmp_path / NAME
    assert json.loads((tmp_path / NAME).read_text()) == [*others, ENTRY | {"mean": 0.75}] == read_results(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [NAME], "neither a lock nor a partial file is left"


def test_the_file_of_an_older_release_is_one_entry_of_the_student_with_layers_counted_from_one(tmp_path: Path) -> None:
    old = {"task": "classify", "metric": "accuracy", "split": "test", "mean": 0.8, "probes": {"knn": {"accuracy": 0.7, "layer": 0}}}
    (tmp_path / NAME).write_text(json.dumps(old))
    add_result(tmp_path, ENTRY)
    converted, new = read_results(tmp_path)
    assert new == ENTRY
    assert converted == old | {"data": None, "weights": "student", "probes": {"knn": {"accuracy": 0.7, "layer": 1}}}
    (tmp_path / NAME).write_text(json.dumps({"task": "cloze", "layer": 2, "split": "held-out"}))
    assert read_results(tmp_path)[0]["layer"] == 3


@pytest.mark.parametrize("content", ["", '[{"task": "cloze"', "3", '["a"]', '[{"mean": 1}]', "{}", "\x00\x01"])
def test_a_damaged_file_is_one_line_before_any_work_and_stays_as_it_is(content: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(content)
    for attempt in (lambda: check_writable(tmp_path), lambda: add_result(tmp_path, ENTRY)):
        with pytest.raises(ConfigError, match=r"results\.json: .*; move it away, or --out DIR") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert (tmp_path / NAME).read_text() == content


def test_a_missing_folder_is_made_and_one_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/results\.json: cannot be written \(.*\); --out DIR"):
        check_writable(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written"):
        check_writable(tmp_path)


def _add(folder: Path, data: int) -> None:
    for _ in range(5):
        add_result(folder, ENTRY | {"data": data})


def test_probes_at_the_same_time_lose_no_entry(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        for done in [pool.submit(_add, tmp_path, data) for data in range(12)]:
            done.result(timeout=30)
    assert sorted(entry["data"] for entry in read_results(tmp_path)) == list(range(12))
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
