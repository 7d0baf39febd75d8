"""launch/embed.py as a user runs it: files of all modalities on one rank and two, and bad input, which leaves nothing."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from tests.launching import ROOT, launch, start, start_ranks
from tests.made_up import WRITE

EMBED = ROOT / "launch" / "embed.py"
OLD_RUNS = ROOT / "tests" / "old_runs"
BAD: dict[str, tuple[list[str], str]] = {
    "nothing": (["--from", "nowhere"], r"--from nowhere: no such folder, and the Hugging Face hub \(\S+\) does not give it: no answer"),
    "another folder": (["--from", "."], r"--from \.: neither a run dir nor a checkpoint folder"),
    "another model": (["--from", "bert"], r"--from bert: its config\.json has model_type 'bert'; name a directory of data2vec-text"),
    "no checkpoint": (["--from", "unsaved"], r"--from unsaved: the run has no complete checkpoint yet"),
    "no tokenizer": (
        ["--from", "untokenized"],
        r"untokenized/prepared: the run's tokenizer is not there \(tokenizer\.model or",
    ),
    "no teacher": (["--from", "hf", "--weights", "teacher"], r"--from hf: a Hugging Face directory has one network and no teacher"),
    "layer 99": (["--layer", "99"], r"--layer 99: the model has 1 blocks; name 0 to 1, last or mean"),
    "layer -1": (["--layer", "-1"], r"--layer -1: the model has 1 blocks"),
    "layer x": (["--layer", "x"], r"--layer x: must be a number of a block, last or mean"),
    "cls of speech": (["--from", "speech", "--pool", "cls"], r"--pool cls: this modality has no token for the whole sample; use mean or"),
    "no data": (["--data", "nowhere.txt"], r"--data nowhere\.txt: no such file or folder"),
    "empty data": (["--data", "empty"], r"empty: no text in it, found nothing"),
    "other data": (["--from", "speech", "--data", "book.txt"], r"book\.txt: unknown kind of file \.txt; known are folders of"),
    "other column": (["--data", "table.csv"], r"table\.csv: no column 'text', there are sentence; --column NAME"),
    "split": (["--data", "book.txt", "--split", "test"], r"book\.txt: one file is one split, and 'test' was asked for"),
    "there": (["--out", "there.npz"], r"--out there\.npz: exists already; name another file, or replace it with --force"),
    "no folder": (["--out", "a/b.npz"], r"--out a/b\.npz: there is no folder a; make it"),
    "suffix": (["--out", "a.csv"], r"--out a\.csv: unknown kind of file \.csv; name it \.parquet or \.npz"),
    "none good": (
        ["--from", "speech", "--data", "damaged"],
        r"damaged: none of 2 items can be used: .*0\.wav \(.*not audio.*check the data",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with runs, data and what is no such thing."""
    place = tmp_path_factory.mktemp("embed")
    for modality in ("text", "speech", "vision"):
        (place / modality).symlink_to(OLD_RUNS / modality / "run")
        WRITE[modality](place)
    for name in ("unsaved", "untokenized", "bert", "hf", "empty", "damaged"):
        (place / name).mkdir()
    shutil.copy(OLD_RUNS / "text" / "run" / "config.json", place / "unsaved")
    shutil.copytree(OLD_RUNS / "text" / "run", place / "untokenized", ignore=shutil.ignore_patterns("prepared"), dirs_exist_ok=True)
    for name, model_type in (("bert", "bert"), ("hf", "data2vec-text")):
        (place / name / "config.json").write_text(json.dumps({"model_type": model_type}))
    shutil.copy(ROOT / "tests" / "golden" / "hf" / "text" / "model.safetensors", place / "bert")
    (place / "table.csv").write_text("sentence\nba do\n")
    (place / "there.npz").touch()
    for number in range(2):
        (place / "damaged" / f"{number}.wav").write_text("no")
    return place


def read(path: Path) -> dict[str, Any]:
    """Return the arrays of an npz, and its description as a dictionary."""
    with np.load(path) as stored:
        return {**{name: stored[name] for name in stored.files}, "about": json.loads(str(stored["about"]))}


def test_help_says_how_layers_are_numbered(tmp_path: Path) -> None:
    done = launch(EMBED, ["--help"], tmp_path)
    assert done.returncode == 0 and "python launch/embed.py --from runs/text_tiny" in done.stdout
    assert re.search(r"N: the output of block N, counted from 1 \(0: the\s+input\s+of the first", done.stdout)


@pytest.mark.parametrize(
    ("modality", "data", "num_items"), [("text", "book.txt", 400), ("speech", "tones", 40), ("vision", "pictures", 40)]
)
def test_two_ranks_write_the_same_file_as_one_within_1e_6(modality: str, data: str, num_items: int, folder: Path, tmp_path: Path) -> None:
    words = ["--from", folder / modality, "--data", folder / data, "--layer", "mean", "--out"]
    done = launch(EMBED, [*words, "one.npz"], tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert re.search(
        rf"embedded {num_items} of {num_items} items in .* s, .* a second, peak memory .*; {num_items} embeddings", done.stdout
    )
    for two in start_ranks(EMBED, [*words, "two.npz"], tmp_path, 2).wait(60):
        assert (two.returncode, two.stderr) == (0, ""), two.stderr
    one, two = read(tmp_path / "one.npz"), read(tmp_path / "two.npz")
    assert one["index"].tolist() == list(range(num_items)) and one["about"] == two["about"]
    assert all(np.array_equal(one[name], two[name]) for name in ("index", "item", "path", "row"))
    assert len(np.unique(one["embeddings"], axis=0)) > num_items // 2 and np.isfinite(one["embeddings"]).all()
    np.testing.assert_allclose(two["embeddings"], one["embeddings"], atol=1e-6)
    about = one["about"]
    assert (about["modality"], about["layer"], about["pool"], about["weights"]) == (modality, "mean", "mean", "student")
    assert about["step"] == 20 and about["source"].endswith("step_00000020") and about["data"] == str(folder / data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "two.npz"]


def test_more_ranks_than_items_and_bad_items_are_no_problem(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    shutil.copy(folder / "tones" / "003.wav", tmp_path / "clips" / "a.wav")
    (tmp_path / "clips" / "b.wav").write_text("no")
    words = ["--from", folder / "speech", "--data", "clips", "--pool", "none", "--out", "out.parquet"]
    done = start_ranks(EMBED, words, tmp_path, 3).wait(60)
    assert [one.returncode for one in done] == [0, 0, 0] and "left out: 1 items that cannot be used (all in the file): " in done[0].stdout
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table["item"].to_pylist() == [str(tmp_path / "clips" / "a.wav")] and len(table["embedding"][0]) > 1
    about = json.loads(table.schema.metadata[b"data2vec"])
    assert [where for where, _ in about["bad"]] == [str(tmp_path / "clips" / "b.wav")] and about["num_embedded"] == 1


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, folder: Path) -> None:
    args, complaint = BAD[case]
    defaults = ["--from", "text", "--data", "book.txt", "--out", "out.npz"]
    kept = [word for flag, value in zip(defaults[::2], defaults[1::2], strict=True) if flag not in args for word in (flag, value)]
    before = sorted(folder.rglob("*"))
    done = launch(EMBED, [*kept, *args], folder)
    assert done.returncode == 2 and re.fullmatch(r"error: .*\n", done.stderr), done.stderr
    assert re.search(complaint, done.stderr), done.stderr
    assert sorted(folder.rglob("*")) == before


def test_a_full_disk_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    for name in ("out.npz", "out.parquet"):
        done = launch(EMBED, ["--from", folder / "text", "--data", folder / "book.txt", "--out", name], tmp_path, file_limit=8000)
        assert done.returncode == 2 and re.search(
            rf"error: --out {name}: File too large; name a file .* on a disk with room\n", done.stderr
        )
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("ba do ki lu\n" * 60_000)
    running = start(EMBED, ["--from", folder / "text", "--data", "long.txt", "--batch-size", 1, "--out", "out.npz"], tmp_path)
    running.wait_until(lambda: "long.txt: 60,000 items; text_tiny, student, of " in running.read("stdout"), 30)
    os.kill(int(running.process.pid or 0), signal.SIGINT)
    done = running.wait(30)
    assert done.returncode == 130 and "interrupted" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["long.txt"]


def test_a_file_is_replaced_with_force_and_the_teacher_differs(folder: Path, tmp_path: Path) -> None:
    words = ["--from", folder / "text", "--data", folder / "table.csv", "--column", "sentence", "--out", "out.npz"]
    assert launch(EMBED, words, tmp_path).returncode == 0
    student = read(tmp_path / "out.npz")
    assert launch(EMBED, [*words, "--force", "--weights", "teacher"], tmp_path).returncode == 0
    teacher = read(tmp_path / "out.npz")
    assert student["item"][0].endswith("table.csv row 1") and not np.allclose(student["embeddings"], teacher["embeddings"])
