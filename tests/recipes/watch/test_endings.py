"""Reading the files of RUN_DIR/watch, and finding the rank that failed first."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from recipes.watch.endings import (
    config_error_of_another_rank,
    first_failure,
    ranks_with_record,
    read_endings,
    read_records,
    record_file,
    remove_folder,
    write_roster,
)
from recipes.watch.shared_folder import write_record
from tests.distributed import run_command

HOSTS = ["node1", "node1", "node2", "node2"]
LOST = {"code": 1, "message": "RuntimeError: [pair.cc:534] Connection closed by peer [10.0.0.2]:4021"}
DEFECT = {"code": 1, "message": "ValueError: shapes differ"}
FINE = {"code": 0, "message": ""}


def write(folder: Path, *endings: tuple[int, object, float]) -> Path:
    """Write records of ranks at step 17. An ending is (rank, ended, seconds)."""
    write_roster(folder, HOSTS)
    for rank, ended, seconds in endings:
        record = {"rank": rank, "host": HOSTS[rank], "step": 17, "phase": "forward", "time": 1000.0 + seconds, "ended": ended}
        write_record(folder, record)
    return folder


def first(folder: Path, *endings: tuple[int, object, float]) -> str:
    return str(first_failure(read_endings(write(folder, *endings))))


def test_without_a_folder_there_are_no_endings(tmp_path: Path) -> None:
    assert read_records(tmp_path / "watch") == {} and read_endings(tmp_path / "watch") == []
    assert first_failure([]) is None


def test_the_roster_adds_ranks_without_a_record_and_remove_folder_removes_the_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "watch", (0, FINE, 0))
    endings = read_endings(folder)
    assert [(one.rank, one.host, one.ended, one.is_bad) for one in endings][:3] == [
        (0, "node1", "reported", False),
        (1, "node1", "gone", True),
        (2, "node2", "gone", True),
    ]
    remove_folder(folder)
    remove_folder(folder)
    assert not folder.exists()


def test_a_reader_sees_the_old_or_the_new_roster_never_half(tmp_path: Path) -> None:
    write_roster(tmp_path, ["before"])
    with (tmp_path / "ranks.json").open() as before:
        write_roster(tmp_path, HOSTS)
        assert before.read() == '["before"]\n'
    assert [one.host for one in read_endings(tmp_path)] == HOSTS


def test_half_a_file_and_other_files_are_not_records(tmp_path: Path) -> None:
    folder = write(tmp_path / "watch", (1, FINE, 0))
    record_file(folder, 0).write_text('{"rank": 0, "ho')
    record_file(folder, 2).write_text("[]")
    (folder / "rank_00003.stack.txt").write_text("Thread")
    assert list(read_records(folder)) == [1] and ranks_with_record(folder) == [0, 1, 2]


def test_records_are_read_a_few_at_a_time_and_known_ones_not_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "watch", *[(rank, FINE, 0) for rank in range(4)])
    assert [list(read_records(folder, known, 2)) for known in ({}, {0}, {0, 1}, {0, 1, 3})] == [[0, 1], [1, 2], [2, 3], [2]]


@pytest.mark.parametrize(
    ("endings", "line"),
    [
        ([(0, FINE, 1), (1, FINE, 0), (2, {"code": 75, "message": ""}, 0), (3, FINE, 0)], "None"),
        ([(0, FINE, 1), (1, FINE, 0), (2, FINE, 0)], "None"),  # the ranks had agreed to end
        (
            [(0, LOST, 0.001), (1, LOST, 0.002), (2, LOST, 0.003), (3, "silent", 0.9)],
            "rank 3 on node2 died without an exit code (killed, or crashed in native code) at step 17, forward",
        ),
        ([(0, LOST, 0), (1, LOST, 0), (2, "silent", 3), (3, "silent", 2)], "rank 3 on node2 died without an exit code (killed"),
        ([(0, "silent", 1), (1, LOST, 2)], "rank 0 on node1 died without an exit code"),
        # a launcher kills the siblings of a rank with an error some seconds later
        ([(0, "silent", 5), (1, DEFECT, 0), (2, LOST, 0.1)], "rank 1 on node1 ended with exit code 1 at step 17, forward: "),
        ([(0, "silent", 0.4), (1, DEFECT, 0)], "rank 0 on node1 died without an exit code"),
        ([(0, {"code": 2, "message": "fix it"}, 0)], "rank 0 on node1 ended with exit code 2 at step 17, forward: fix it"),
        ([(0, LOST, 0), (1, LOST, 0), (2, LOST, 0)], "rank 3 on node2 exited without a record: its node is gone, or"),
        ([], "rank 0 on node1 exited without a record"),
        ([(rank, "hang", rank) for rank in range(4)], "rank 0 on node1 was in a hang at step 17, forward"),
    ],
)
def test_the_first_failure(tmp_path: Path, endings: list[tuple[int, object, float]], line: str) -> None:
    assert first(tmp_path / "watch", *endings).startswith(line)


@pytest.mark.parametrize("reported", [True, False])
def test_a_straggler_of_a_hang_is_the_first_failure_even_without_a_record(tmp_path: Path, reported: bool) -> None:
    folder = write(tmp_path / "watch", *[(rank, "hang", rank) for rank in range(4) if rank != 2 or reported])
    behind: dict[str, Any] = {"rank": 2, "host": "node2", "why": "stopped", "step": 17, "phase": "forward", "time": 1002.0}
    (folder / "hang.json").write_text(json.dumps({"behind": [behind]}))
    assert str(first_failure(read_endings(folder))) == "rank 2 on node2 hung (stopped) at step 17, forward"
    (folder / "ranks.json").unlink()
    assert str(first_failure(read_endings(folder))) == "rank 2 on node2 hung (stopped) at step 17, forward", "even without the roster"


def test_endings_and_watcher_import_neither_torch_nor_numpy(tmp_path: Path) -> None:
    program = "import sys, recipes.watch.endings, recipes.watch.watcher; print({'torch', 'numpy'} & set(sys.modules))"
    assert run_command([sys.executable, "-c", program], tmp_path, 60).stdout == "set()\n"


MISTAKE = {"code": 2, "message": "out of memory on rank 2 (node2)"}
BROKEN = RuntimeError(LOST["message"])


def test_after_a_broken_connection_the_config_error_of_another_rank_is_waited_for(tmp_path: Path) -> None:
    folder = write(tmp_path / "watch", (1, LOST, 0))
    late = threading.Timer(0.2, write, (folder, (2, MISTAKE, 0)))
    late.start()
    assert config_error_of_another_rank(folder, 0, BROKEN) == MISTAKE["message"]
    late.join()


@pytest.mark.parametrize(
    ("rank", "ended", "error"),
    [
        (0, DEFECT, BROKEN),
        (0, MISTAKE, ValueError("shapes differ")),
        (2, MISTAKE, BROKEN),
    ],
    ids=["another rank's defect", "an error of its own", "its own record"],
)
def test_the_message_of_another_rank_is_not_returned_if_it_is_not_the_cause(
    tmp_path: Path, rank: int, ended: dict, error: Exception
) -> None:
    assert config_error_of_another_rank(write(tmp_path / "watch", (2, ended, 0)), rank, error) is None
    assert config_error_of_another_rank(tmp_path / "nowhere", rank, error) is None
