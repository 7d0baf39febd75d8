"""launch/finetune_text.py: bad input is one line and exit code 2, and what is left out, cut or held out is a line.

Columns, splits and label names of the shared data sets are those of the files that are written here.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launch.finetuning import FINETUNE_TEXT, finetune, write_table
from tests.launching import launch, refused
from tests.recipes.data.glue_files import write_glue
from tests.recipes.data.labelled_texts import write_texts

ROWS = [f"word{number % 7} thing{number % 5},{'ab'[number % 2]}" for number in range(24)]
WORDY = [f"{'many more words ' * 12}{number},{'ab'[number % 2]}" for number in range(24)]


def table(folder: Path, valid: list[str] | None = None, test: list[str] | None = None, rows: list[str] = ROWS) -> Path:
    """Write the splits that are given."""
    for split, lines in (("train", rows), ("valid", valid), ("test", test)):
        if lines is not None:
            write_table(folder, split, lines)
    return folder


def with_header(folder: Path, header: str, rows: list[str]) -> Path:
    return write_table(folder, "train", rows, header)


BAD: dict[str, tuple[Callable[[Path], Path], dict[str, object], str]] = {
    "class_unseen_in_validation": (
        lambda folder: table(folder, ["x,a", "y,c", "z,c"]),
        {},
        r"data: split valid has classes that the training split lacks: 'c' \(2 times\); remove these samples, or train on data that have",
    ),
    "class_unseen_in_test": (
        lambda folder: table(folder, ["x,a"], ["x,c"]),
        {},
        r"data: split test has classes that the training split lacks: 'c' \(1 times\)",
    ),
    "missing_label_column": (
        lambda folder: with_header(folder, "text,intent", ROWS),
        {},
        "no column 'label' of labels in split train, there are text, intent; --set data.label_column=NAME chooses one",
    ),
    "missing_text_column": (
        lambda folder: with_header(folder, "sentence,label", ROWS),
        {},
        r"train\.csv: no column 'text', there are sentence, label; --set data\.text_columns=NAME chooses others, NAME,NAME two of a pair",
    ),
    "one_class": (lambda folder: table(folder, rows=["x y,a"] * 20), {}, "all 18 training samples are of one class, 'a'; give data with"),
    "empty_texts": (
        lambda folder: table(folder, rows=[*ROWS, ",a", " ,b", ",a", ",b"]),
        {},
        "split train: 4 without content, of 28 rows, more than the 3 that data.max_bad_fraction 0.01 allows; fix or remove them",
    ),
    "longer_than_the_network": (
        table,
        {"data__sequence_length": 64},
        "data.sequence_length 64 is more than frontend.max_positions 32 of the network; use --set data.sequence_length=32",
    ),
    "classes_given": (
        table,
        {"objective__labels": "a,c"},
        "class 'b' of 11 training samples is not in objective.labels, which has 2 classes; the data have 2",
    ),
    "weights_given": (table, {"objective__class_weights": "1,2,3"}, "objective.class_weights has 3 values for 2 classes; one each"),
    "nothing_held_out": (
        table,
        {"data__heldout_fraction": 0},
        r"no split 'valid' to choose the best checkpoint on; --set data\.valid_split=NAME, or --set data\.heldout_fraction=0\.1",
    ),
    "larger_batch": (
        table,
        {"run__global_batch_size": 32},
        "the data has 22 samples, fewer than one batch of 32; use more data or --set run",
    ),
    "no_folder": (lambda folder: folder, {}, r"--data .*data: no such file or folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name: str, tmp_path: Path) -> None:
    make, changes, complaint = BAD[name]
    refused(finetune(make(tmp_path / "data"), tmp_path / "run", **({"frontend__vocab_size": 36} | changes)), complaint)
    assert not (tmp_path / "run" / "prepared").exists()


@pytest.mark.parametrize(
    ("cell", "complaint"),
    [
        ("nan", "row 3 of split train: nan is no number to learn; remove the row or leave its cell empty"),
        ("good", "row 3 of split train: 'good' is no number; regression needs one, --task classify takes classes"),
    ],
)
def test_a_target_that_is_no_number_is_one_line(cell: str, complaint: str, tmp_path: Path) -> None:
    data = with_header(tmp_path / "data", "sentence1,sentence2,label", ["x,y,1.5", "x,z,2.5", f"y,z,{cell}"])
    refused(finetune(data, tmp_path / "run", task="regress"), complaint)


@pytest.mark.parametrize(("name", "content"), [("train.csv", ""), ("train.tsv", "\n"), ("train.jsonl", "[]")])
def test_an_empty_file_is_one_line(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    found = "cannot be read as a table|no column 'text'"
    refused(finetune(tmp_path / name, tmp_path / "run"), found)


def test_a_pair_needs_two_columns(tmp_path: Path) -> None:
    refused(
        finetune(table(tmp_path / "data"), tmp_path / "run", task="pair"), "no column 'sentence1', there are text, label; --set data.text"
    )


def test_flags_that_are_missing_or_unknown_are_one_line(tmp_path: Path) -> None:
    refused(launch(FINETUNE_TEXT, ["--from", "random"], tmp_path), "--task is missing; there are sst2, cola, mrpc, .*regress")
    refused(launch(FINETUNE_TEXT, ["--from", "random", "--task", "wnli"], tmp_path), "--task wnli: unknown; there are sst2")
    refused(finetune("none_such/name", tmp_path / "run"), "--data none_such/name: no such file or folder")


def test_a_dry_run_reads_the_columns_and_trains_nothing(tmp_path: Path) -> None:
    data = write_glue(tmp_path / "glue")
    done = finetune(data, tmp_path / "run", "--dry-run", task="mnli")
    assert done.returncode == 0, done.stderr
    assert '"valid_split": "validation_matched"' in done.stdout and not (tmp_path / "run").exists()
    refused(finetune(data, tmp_path / "run", "--dry-run", task="mnli", data__label_column="gold"), "no column 'gold' of labels")


def test_what_is_cut_left_out_and_held_out_is_a_line(tmp_path: Path) -> None:
    data = table(tmp_path / "data", rows=[*WORDY, ",a"])
    done = finetune(data / "train.csv", tmp_path / "run", run__global_batch_size=8, frontend__vocab_size=40)
    assert done.returncode == 0, done.stderr
    for line in (
        "split train: left out 1 without content, of 25 rows",
        "no split 'valid': 2 of 24 training samples are held out instead",
        "22 of 22 texts are cut to data.sequence_length 32 tokens",
        "no split 'test' to test on",
    ):
        assert line in done.stdout.splitlines(), done.stdout


def test_a_run_that_continues_on_other_data_refuses_more_classes(tmp_path: Path) -> None:
    """Its head has one output for each class of its own data."""
    settings = {"finetune__epochs": 0, "optim__warmup_steps": 0, "run__global_batch_size": 8, "run__accept_changes": "data.path"}
    assert finetune(write_texts(tmp_path / "data"), tmp_path / "run", run__max_steps=2, **settings).returncode == 0
    other = write_texts(tmp_path / "other")
    with (other / "train.csv").open("a") as file:
        file.write("one more,text,d,0\n")
    refused(
        finetune(other, tmp_path / "run", run__max_steps=3, **settings),
        "class 'd' of 1 training samples is not in objective.labels, which has 3 classes; the data have 4",
    )


@pytest.mark.parametrize("task", ["stsb", "mnli"])
def test_a_task_of_glue_trains_on_published_files(task: str, tmp_path: Path) -> None:
    settings = {"run__global_batch_size": 4, "frontend__vocab_size": 60, "finetune__epochs": 1}
    done = finetune(write_glue(tmp_path / "glue"), tmp_path / "run", task=task, **settings)
    assert done.returncode == 0, done.stderr
    assert "has no labels: it is predicted, not scored" in done.stdout and "prepared labelled samples: 12 train, 4 valid" in done.stdout
