"""launch/pretrain_text.py, tests of text only: bad corpora, and a preparation that takes long enough to be interrupted."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.launching import PRETRAIN_TEXT, Running, contents, launch, overrides, read_jsonl, refused, start, start_ranks, write_files
from tests.made_up import write_book

TEXT = b"one two three four five six seven\n" * 30
BAD_DATA: dict[str, tuple[dict[str, bytes], list[str], str]] = {
    "positions": ({}, ["--set", "frontend.max_positions=31"], r"max_positions 31 is less than data\.sequence_length 32"),
    "empty folder": ({"raw/.hidden": b"x"}, ["--data", "raw"], r"raw: no text in it"),
    "empty file": ({"book.txt": b"\n \n"}, ["--data", "book.txt"], r"book\.txt: no text in it"),
    "binary": ({"book.txt": b"good line\nbad \0 line\n"}, ["--data", "book.txt"], r"book\.txt line 2: a NUL byte"),
    "not UTF-8": ({"book.txt": b"good line\ncaf\xe9\n"}, ["--data", "book.txt"], r"book\.txt line 2: byte 0xe9 is not UTF-8"),
    "pictures": ({"raw/a.jpg": b"\xff\xd8"}, ["--data", "raw"], r"raw: no text in it, found 1 \.jpg"),
    "too few samples": (
        {"book.txt": TEXT},
        ["--data", "book.txt", "--set", "frontend.vocab_size=24", "--set", "run.global_batch_size=64"],
        r"the data has \d+ samples, fewer than one batch of 64; use more data or --set run\.global_batch_size=\d+",
    ),
    "vocabulary": ({"book.txt": TEXT}, ["--data", "book.txt"], r"vocab_size 200 is too large.*--set frontend\.vocab_size=\d+"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_are_one_line_and_leave_nothing(case: str, tmp_path: Path) -> None:
    files, args, complaint = BAD_DATA[case]
    before = write_files(tmp_path, files)
    refused(launch(PRETRAIN_TEXT, [*overrides(), *args], tmp_path), complaint)
    assert contents(tmp_path) == before


def test_a_full_disk_while_preparing_is_one_line_and_leaves_nothing(tmp_path: Path, tiny_text: Path) -> None:
    done = launch(PRETRAIN_TEXT, ["--data", tiny_text, "--run-dir", "a/run", *overrides()], tmp_path, file_limit=20_000)
    refused(done, r"a/run/prepared: cannot be written \(File too large\), \d+ bytes free on that disk; free space")
    assert contents(tmp_path) == {}


def interrupt(running: Running, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    assert running.process.pid is not None
    os.kill(running.process.pid, number)
    return running.wait(30)


def long_preparation(tmp_path: Path) -> Running:
    """Start a launch and return it while it prepares 2 MB of text."""
    book = write_book(tmp_path / "line.txt")
    (tmp_path / "book.txt").write_text(book.read_text() * 50)
    book.unlink()
    running = start(PRETRAIN_TEXT, ["--data", "book.txt", *overrides()], tmp_path)
    running.wait_until(lambda: bool(list((tmp_path / "runs" / "text_tiny").glob(".prepared.*.tmp"))))
    return running


def test_an_interrupt_while_preparing_leaves_nothing(tmp_path: Path) -> None:
    done = interrupt(long_preparation(tmp_path), signal.SIGINT)
    assert (done.returncode, done.stderr) == (75, "")
    assert done.stdout.endswith("stopped by SIGINT during preparation; the same command continues\n")
    assert [path.name for path in tmp_path.iterdir()] == ["book.txt"]


def test_after_a_kill_while_preparing_the_same_command_starts_over(tmp_path: Path) -> None:
    assert interrupt(long_preparation(tmp_path), signal.SIGKILL).returncode == -signal.SIGKILL
    run = tmp_path / "runs" / "text_tiny"
    assert not (run / "prepared").exists(), "incomplete data would be taken for complete data"
    shutil.copyfile(write_book(tmp_path / "line.txt"), tmp_path / "book.txt")
    done = launch(PRETRAIN_TEXT, ["--data", "book.txt", *overrides()], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(run.glob(".prepared.*")) and (run / "prepared" / "prepared.json").exists()


def packed(steps: int) -> list[str]:
    """Return the flags of a run whose rows hold several documents, with the published kinds of positions and norms."""
    norms = {"teacher__layer_norms": "layer", "teacher__average_norms": ""}
    kinds = {"data__packing": "documents", "data__break_mode": "complete_doc", "frontend__positions": "absolute"}
    return overrides(
        run__max_steps=steps, run__save_steps=3, run__eval_steps=3, run__eval_samples=64, data__heldout_fraction=0.2, **norms, **kinds
    )


def run_packed(tmp_path: Path, data: Path, name: str, *steps: int, ranks: int = 1) -> list[dict[str, Any]]:
    """Return the logged numbers of a run that is launched once for each of `steps`, the updates at which it ends."""
    for last in steps:
        flags = ["--data", data, "--run-dir", tmp_path / name, *packed(last)]
        for done in start_ranks(PRETRAIN_TEXT, flags, tmp_path, ranks).wait():
            assert (done.returncode, done.stderr) == (0, "")
    rows = read_jsonl(tmp_path / name / "metrics.jsonl")
    names = ("loss", "grad_norm", "target_std", "masked_fraction", "tokens", "samples", "eval_loss")
    return [{key: value for key, value in row.items() if key in names} for row in rows]


def test_packed_rows_train_and_resume_with_the_same_numbers(tmp_path: Path, tiny_text: Path) -> None:
    whole = run_packed(tmp_path, tiny_text, "whole", 6)
    assert run_packed(tmp_path, tmp_path / "whole" / "prepared", "parts", 3, 6) == whole
    assert len(whole) == 6 and whole[-1]["tokens"] > 0.95 * 6 * 8 * 32, "hardly any padding"


@pytest.mark.slow
def test_packed_rows_train_on_two_ranks_as_on_one_within_1e_5(tmp_path: Path, tiny_text: Path) -> None:
    alone = run_packed(tmp_path, tiny_text, "alone", 6)
    for one, other in zip(alone, run_packed(tmp_path, tmp_path / "alone" / "prepared", "shared", 6, ranks=2), strict=True):
        assert other == pytest.approx(one, rel=1e-5)
