"""Work on a dead disk, and the two files that show the watchers of other ranks a hang or a failure."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recipes.watch.endings import read_records
from recipes.watch.shared_folder import SharedFolder, claim_hang_report, has_hang_or_failure, write_record


def test_the_watcher_waits_only_once_for_a_dead_disk(tmp_path: Path) -> None:
    folder, answers, jobs = SharedFolder(tmp_path), threading.Event(), list[str]()
    assert folder.do(lambda path: answers.wait(60), 0.05) is None
    assert folder.do(lambda path: jobs.append("second"), 60) is None and jobs == []
    answers.set()
    assert folder._working is not None
    folder._working.join(60)
    assert folder.do(lambda path: path) == tmp_path
    assert folder.do(lambda path: (path / "missing").read_text()) is None


def record(rank: int, ended: object) -> dict:
    return {"rank": rank, "host": "a", "time": 1.0, "ended": ended}


def failure(folder: Path) -> int:
    return json.loads((folder / "failure.json").read_text())["rank"]


def test_one_watcher_of_many_reports_a_hang(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "watch"
    with ThreadPoolExecutor(16) as watchers:
        claims = list(watchers.map(lambda rank: claim_hang_report(folder, rank), range(64)))
    assert claims.count(True) == 1 and has_hang_or_failure(folder) == (True, False)
    assert (folder / "hang_reporter.txt").read_text() == f"{claims.index(True)}\n"


@pytest.mark.parametrize(
    ("ended", "has_failed"),
    [("silent", True), ({"code": 1, "message": ""}, True), ({"code": 0, "message": ""}, False), ({"code": 75, "message": ""}, False)],
    ids=str,
)
def test_a_bad_end_is_a_failure_of_the_launch(tmp_path: Path, ended: object, has_failed: bool) -> None:
    write_record(tmp_path, record(3, ended))
    assert has_hang_or_failure(tmp_path) == (False, has_failed) and read_records(tmp_path) == {3: record(3, ended)}


def test_the_first_failure_stays_unless_an_error_of_the_user_explains_it(tmp_path: Path) -> None:
    for rank, ended, first in [
        (3, {"code": 1, "message": "connection closed"}, 3),
        (1, "silent", 3),
        (2, {"code": 2, "message": "out of memory"}, 2),
        (0, {"code": 1, "message": "connection closed"}, 2),
        (4, "hang", 2),
    ]:
        write_record(tmp_path, record(rank, ended))
        assert failure(tmp_path) == first
