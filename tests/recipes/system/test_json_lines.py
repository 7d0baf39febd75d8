"""Complete lines only: after a kill in the middle of a line, on a full disk, and after the disk has recovered. Never an exception."""

import json
import sys
from pathlib import Path

import pytest

from recipes.system.json_lines import JsonLines, read_lines, read_rows
from tests.distributed import run_command
from tests.launching import ROOT

ROWS = [{"step": step, "loss": 0.1 + 0.2} for step in range(5)]


def test_every_line_is_there_as_soon_as_it_is_appended_at_full_precision(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "log.jsonl")
    assert not lines.path.exists()
    for number, row in enumerate(ROWS, 1):
        lines.append(row)
        assert [json.loads(line) for line in lines.path.read_text().splitlines()] == ROWS[:number]
    again = JsonLines(tmp_path / "log.jsonl")
    again.append({"step": 5})
    assert read_rows(lines.path) == ([*ROWS, {"step": 5}], 0)


def test_nothing_stays_open_between_two_lines(tmp_path: Path) -> None:
    """After a failure of the file server an open file would be stale."""
    lines, descriptors = JsonLines(tmp_path / "log.jsonl"), Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    for row in ROWS:
        lines.append(row)
    assert len(list(descriptors.iterdir())) == before


@pytest.mark.parametrize("torn", ["{", '{"step": 5, "lo', '{"step": 5}'])
def test_an_incomplete_last_line_is_removed_on_opening(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + torn)
    JsonLines(path).append({"step": 9})
    assert read_rows(path) == ([*ROWS, {"step": 9}], 0)


def test_lines_that_are_not_objects_are_counted_and_ignored(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n\0\0\0\n[1]\n{"step": 2\n\xff\n{"step": 3}\n')
    assert read_rows(tmp_path / "log.jsonl") == ([{"step": 1}, {"step": 3}], 4)
    assert read_rows(tmp_path / "none.jsonl") == ([], 0)


@pytest.mark.parametrize("torn", ["{", '{"step": 5}'])
def test_an_incomplete_last_line_is_ignored_and_does_not_count_as_damaged(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\nno object\n' + torn)
    assert list(read_lines(path)) == [('{"step": 1}', {"step": 1}), ("no object", None)]
    assert read_rows(path) == ([{"step": 1}], 1) and not list(read_lines(tmp_path / "none.jsonl"))


PROGRAM = """
import resource, signal, sys
from pathlib import Path
from recipes.system.json_lines import JsonLines

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
lines = JsonLines(Path(sys.argv[1]))
rows = [{"step": step, "text": "x" * 80} for step in range(6)]
for row in rows[:2]:
    lines.append(row)
soft = 250  # two whole lines and half of the third
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))
for row in rows[2:5]:
    lines.append(row)
    print(lines.path.read_bytes().count(b"\\n"), lines.path.read_bytes().endswith(b"\\n"))
if sys.argv[2] == "well":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    lines.append(rows[5])
lines.close()
print(lines.path.read_bytes().count(b"\\n"))
"""


@pytest.mark.parametrize(("end", "num_lines"), [("well", 6), ("full", 2)])
def test_a_full_disk_is_one_warning_and_no_half_line_and_no_line_is_lost_if_it_recovers(tmp_path: Path, end: str, num_lines: int) -> None:
    """A limit on the file size simulates the full disk: both accept a part of a write and then fail."""
    done = run_command([sys.executable, "-c", PROGRAM, tmp_path / "log.jsonl", end], ROOT, 30)
    assert (done.returncode, done.stderr) == (0, "")
    first, *rest = done.stdout.splitlines()
    assert first == f"warning: {tmp_path}/log.jsonl cannot be written (File too large); its lines are kept in memory, training continues"
    assert rest[:3] == ["2 True"] * 3
    lost = [] if end == "well" else [f"warning: 3 lines of {tmp_path}/log.jsonl are lost, they could not be written"]
    assert rest[3:] == [*lost, str(num_lines)]
    rows, num_damaged = read_rows(tmp_path / "log.jsonl")
    assert ([row["step"] for row in rows], num_damaged) == (list(range(num_lines)), 0)


def test_no_line_is_lost_if_the_folder_is_gone_for_a_while(tmp_path: Path) -> None:
    warnings: list[str] = []
    (tmp_path / "share").mkdir()
    lines = JsonLines(tmp_path / "share" / "log.jsonl", warnings.append)
    lines.append(ROWS[0])
    (tmp_path / "share").rename(tmp_path / "away")
    lines.append(ROWS[1])
    lines.append(ROWS[2])
    (tmp_path / "away").rename(tmp_path / "share")
    lines.append(ROWS[3])
    assert read_rows(lines.path) == (ROWS[:4], 0) and len(warnings) == 1
    (tmp_path / "share").rename(tmp_path / "away")
    lines.append(ROWS[4])
    assert len(warnings) == 2, "a new failure is reported again"


def test_lost_lines_are_reported_once(tmp_path: Path) -> None:
    warnings: list[str] = []
    lines = JsonLines(tmp_path / "gone" / "log.jsonl", warnings.append)
    lines.append(ROWS[0])
    lines.close()
    lines.close()
    assert len(warnings) == 2 and "1 lines of" in warnings[1] and "are lost" in warnings[1]


def test_nothing_is_written_if_another_launch_owns_the_folder(tmp_path: Path) -> None:
    warnings: list[str] = []
    ours = True
    lines = JsonLines(tmp_path / "log.jsonl", warnings.append, is_ours=lambda: ours)
    lines.append(ROWS[0])
    ours = False
    lines.append(ROWS[1])
    lines.close()
    assert read_rows(lines.path) == (ROWS[:1], 0) and warnings == []
