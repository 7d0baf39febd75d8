"""GLUE's own files, in the layouts in which they are published, and its data on the hub."""

from pathlib import Path
from typing import Any, get_type_hints

import pytest

from recipes.data.glue import GLUE, load_glue
from recipes.data.labelled_text import TableSplit
from recipes.data.labels import class_name
from recipes.errors import ConfigError, MissingSplit
from recipes.labelled_config import LabelledTextDataConfig
from tests.recipes.data.glue_files import HEADERS, NUM_TEST, NUM_TRAIN, NUM_VALID, text_of, write_glue, write_rows

FIRST = {"mnli": "sentence1", "mrpc": "#1 String"}
"""Names of the first column of texts in the files, if they differ from those on the hub."""


def load(path: object, task: str, split: str = "train") -> TableSplit:
    return load_glue(str(path), task, split, GLUE[task].text_columns, "label")


def classes(table: TableSplit) -> list[str | None]:
    return [class_name(cell, table.class_names.get("label")) for cell in table.cells["label"]]


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_glue(tmp_path_factory.mktemp("glue"))


def test_the_setting_names_the_eight_tasks() -> None:
    assert get_type_hints(LabelledTextDataConfig)["glue_task"].__args__ == ("", *GLUE)


@pytest.mark.parametrize("task", GLUE)
def test_published_files_of_all_tasks_or_of_one_are_read(glue: Path, task: str) -> None:
    published = GLUE[task]
    for folder in (glue, glue / published.folder):
        table = load(folder, task)
        name = FIRST.get(task, published.text_columns[0])
        assert table.cells[published.text_columns[0]] == [text_of(name, "train", row) for row in range(NUM_TRAIN)], "quotes are literal"
        assert len(load(folder, task, published.valid_split).cells["label"]) == NUM_VALID
        for split in published.test_splits:
            test = load(folder, task, split)
            is_labelled = split == "validation_mismatched"
            assert len(test.cells[published.text_columns[-1]]) == (NUM_VALID if is_labelled else NUM_TEST)
            assert ("label" in test.columns) == is_labelled


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("sst2", ["negative", "positive"]),
        ("cola", ["unacceptable", "acceptable"]),
        ("mrpc", ["not_equivalent", "equivalent"]),
        ("qqp", ["not_duplicate", "duplicate"]),
        ("mnli", ["entailment", "neutral"]),
        ("qnli", ["entailment", "not_entailment"]),
        ("rte", ["not_entailment", "entailment"]),
    ],
)
def test_labels_of_the_files_are_named_classes(glue: Path, task: str, labels: list[str]) -> None:
    assert classes(load(glue, task))[:2] == labels and set(labels) <= set(GLUE[task].labels)


def test_the_two_validation_splits_of_mnli_are_two_files(glue: Path) -> None:
    matched, mismatched = (load(glue, "mnli", f"validation_{kind}").cells["premise"] for kind in ("matched", "mismatched"))
    assert matched[0] == text_of("sentence1", "dev_matched", 0) and mismatched[0] == text_of("sentence1", "dev_mismatched", 0)


def test_scores_are_numbers(glue: Path) -> None:
    table = load(glue, "stsb")
    assert [float(cell) for cell in table.cells["label"][:4]] == [5.0, 2.5, 0.75, 3.0] and not table.class_names


def test_the_original_files_of_mrpc_have_a_labelled_test_split_and_no_validation_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_rows(tmp_path / f"msr_paraphrase_{split}.txt", "MRPC", HEADERS["MRPC"]["train"], split, 4)
    assert classes(load(tmp_path, "mrpc", "test")) == ["not_equivalent", "equivalent"] * 2
    with pytest.raises(MissingSplit, match=r"no file of split 'validation' of GLUE, there are msr_paraphrase_test\.txt, msr_para"):
        load(tmp_path, "mrpc", "validation")


def test_a_broken_line_is_a_row_without_content(tmp_path: Path) -> None:
    """QQP's train.tsv has such lines."""
    write_rows(tmp_path / "train.tsv", "QQP", HEADERS["QQP"]["train"], "train", 3)
    with (tmp_path / "train.tsv").open("a") as file:
        file.write("3\t1\t2\tcut off\n4\t1\t2\ta\tb\t1\ttoo many\n5\t1\t2\ta\tb\t1\r\n")
    table = load(tmp_path, "qqp")
    assert table.cells["question1"][3:] == [None, None, "a"] and classes(table)[3:] == [None, None, "duplicate"]


def test_missing_columns_and_empty_or_undecodable_files_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    for content, complaint in (
        (b"text\tlabel\na\t1\n", r"train\.tsv: no column 'sentence', there are text, label; --set data\.text_columns=NAME"),
        (b"\n", r"train\.tsv: cannot be read as a table \(empty file\)"),
        (b"sentence\tlabel\n\xff\t1\n", r"train\.tsv: cannot be read as a table \('utf-8' codec can't decode byte 0xff"),
    ):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=complaint):
            load(tmp_path, "sst2")


def test_other_tables_with_the_columns_of_the_hub_are_read_too(tmp_path: Path) -> None:
    """Numbers of classes have GLUE's names, also in a file without them."""
    (tmp_path / "train.csv").write_text("sentence,label\na,1\nb,0\n")
    (tmp_path / "test.csv").write_text("sentence,label\na,-1\n")
    assert classes(load(tmp_path, "sst2")) == ["positive", "negative"] and classes(load(tmp_path, "sst2", "test")) == [None]
    assert classes(load(tmp_path / "train.csv", "sst2")) == ["positive", "negative"]


@pytest.mark.parametrize("path", ["glue", "nyu-mll/glue", "nyu-mll/glue:stsb"])
def test_the_hubs_task_is_loaded_and_minus_one_is_no_label(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    def give(*args: object, **options: object) -> Any:
        assert (args, options) == (("nyu-mll/glue", "stsb"), {"split": "test"})
        return datasets.Dataset.from_dict({"sentence1": ["a"], "sentence2": ["b"], "label": [-1.0], "idx": [0]})

    monkeypatch.setattr(datasets, "load_dataset", give)
    monkeypatch.chdir(tmp_path)
    assert load(path, "stsb", "test").cells == {"sentence1": ["a"], "sentence2": ["b"], "label": [None]}
