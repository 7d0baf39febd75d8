"""Printing never ends a process: real pipes, disks and terminals to which a write fails."""

import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.distributed import run_command
from tests.launching import ROOT

PROGRAM = """
import json, os, sys, time
from recipes.system.terminal import limit_waiting, protect_terminal, take_lost_outputs

protect_terminal(warns=True)
protect_terminal()
{body}
with open(sys.argv[1], "w") as file:
    json.dump({{"number": file.fileno(), "losses": take_lost_outputs(), "again": take_lost_outputs()}}, file)
"""
LINES = "for number in range(10000): print('line', number)"


def output_of(tmp_path: Path, command: str, body: str = LINES, **env: str) -> tuple[dict, subprocess.CompletedProcess[str]]:
    """Run a shell command in which PYTHON is replaced by PROGRAM. Returns the JSON that the program writes, and the finished command."""
    program, out = tmp_path / "program.py", tmp_path / "result.json"
    program.write_text(PROGRAM.format(body=body))
    shell = command.replace("PYTHON", f"{sys.executable} {program} {out}")
    done = run_command(["bash", "-c", shell], ROOT, 60, {"PYTHONPATH": str(ROOT), **env})
    return json.loads(out.read_text()), done


@pytest.mark.parametrize(
    ("command", "stream", "reason"),
    [
        ("(PYTHON; echo code $? >&2) | head -2", "stdout", "Broken pipe"),
        ("PYTHON > /dev/full; echo code $? >&2", "stdout", "No space left on device"),
        ("PYTHON >&-; echo code $? >&2", "stdout", "it was closed from the beginning"),
        ("PYTHON 2>/dev/full; echo code $?", "stderr", "No space left on device"),
        ("PYTHON 2>&-; echo code $?", "stderr", "it was closed from the beginning"),
    ],
)
def test_lost_output_is_one_warning_on_the_other_stream_and_ends_nothing(command: str, stream: str, reason: str, tmp_path: Path) -> None:
    body = f"{LINES}\nfor number in range(10000): print('line', number, file=sys.stderr)" if stream == "stderr" else LINES
    result, done = output_of(tmp_path, command, body)
    assert result["losses"] == [[stream, reason]] and result["again"] == [] and result["number"] > 2
    other = done.stderr if stream == "stdout" else done.stdout
    assert other.count(f"warning: {stream} is lost ({reason})") == 1 and "code 0\n" in other, (
        "the exit code is that of a run without lost output"
    )


def test_a_slow_reader_gets_all_output(tmp_path: Path) -> None:
    result, done = output_of(tmp_path, "PYTHON | (sleep 0.2; cat)")
    assert done.stdout == "".join(f"line {number}\n" for number in range(10000)) and result["losses"] == []


def test_without_any_descriptor_printed_text_does_not_go_into_files_that_are_opened_later(tmp_path: Path) -> None:
    result, _ = output_of(tmp_path, "PYTHON <&- >&- 2>&-")
    assert result["number"] > 2 and [stream for stream, _ in result["losses"]] == ["stdout", "stderr"]


@pytest.mark.parametrize("end", ["os.close(1)", "sys.stdout.close()", "sys.stderr.close()"])
def test_printing_to_a_stream_that_was_closed_meanwhile_does_not_fail(end: str, tmp_path: Path) -> None:
    _, done = output_of(tmp_path, "PYTHON; echo code $? >&2", f"{end}\n{LINES}\nprint('after', file=sys.stderr)")
    assert done.stderr.endswith("after\ncode 0\n")


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {}])
def test_characters_that_a_terminal_lacks_are_escaped_and_invalid_bytes_are_unchanged(env: dict[str, str], tmp_path: Path) -> None:
    printed, own = "'\\xfcn\\u2026 ' + os.fsdecode(b'\\xff')", tmp_path / "out"
    output_of(tmp_path, f"PYTHON > {own}", f"print({printed}); print('\\xfcn', file=sys.stderr)", **env)
    assert own.read_bytes() == (b"\\xfcn\\u2026 \xff\n" if env else "ün… ".encode() + b"\xff\n")


def test_a_reader_that_does_not_read_blocks_a_process_with_a_limit_only_once(tmp_path: Path) -> None:
    body = f"limit_waiting(0.3)\nstart = time.monotonic()\n{LINES}\nprint(time.monotonic() - start, file=sys.stderr)"
    result, done = output_of(tmp_path, "PYTHON | sleep 1.5", body)
    assert result["losses"] == [["stdout", "nothing was read for 0.3 s"]]
    assert 0.3 <= float(done.stderr.splitlines()[-1]) < 1.2, "not 0.3 s a line"


def line_of(descriptor: int) -> bytes:
    """Read one line. A terminal returns it in pieces."""
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(descriptor, 100)
    return line


def test_a_terminal_stopped_by_ctrl_s_continues_after_ctrl_q(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    program, out = tmp_path / "program.py", tmp_path / "result.json"
    program.write_text(PROGRAM.format(body="limit_waiting(0.1)\nfor word in ('first', 'second', 'third'):\n    print(word)\n    input()"))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, program, out], stdin=subprocess.PIPE, stdout=theirs, stderr=subprocess.PIPE, env=env) as one:
        assert one.stdin and one.stderr and line_of(ours) == b"first\r\n"
        termios.tcflow(theirs, termios.TCOOFF)
        os.write(one.stdin.fileno(), b"\n")
        assert b"nothing was read for 0.1 s" in one.stderr.readline()
        termios.tcflow(theirs, termios.TCOON)
        one.communicate(b"\n\n", timeout=30)
    assert line_of(ours).strip() == b"third" and one.returncode == 0  # the beginning of the lost line may be there too


def test_a_pipe_that_another_process_made_non_blocking_gets_all_output(tmp_path: Path) -> None:
    result, done = output_of(tmp_path, "PYTHON | (sleep 0.2; cat)", f"os.set_blocking(1, False)\n{LINES}")
    assert len(done.stdout.splitlines()) == 10000 and result["losses"] == []


def shout(number: int) -> int:
    print("x" * 100_000, flush=True)
    return number


WORKERS = """
from recipes.system.processes import run_in_order
from tests.recipes.system.test_terminal import shout

if __name__ == "__main__":
    assert [result for _, result in run_in_order(shout, [1, 2, 3], 2, doing="shouting")] == [1, 2, 3]
"""


def test_printing_does_not_end_a_worker_process_either(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(WORKERS)
    done = run_command(["bash", "-c", f"{sys.executable} {tmp_path / 'program.py'} > /dev/full"], ROOT, 60, {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stderr) == (0, "")
