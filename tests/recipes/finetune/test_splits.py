"""Which examples are fitted on and which are tested on, and that everything that is left out is logged."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from recipes.errors import ConfigError
from recipes.finetune.splits import TEST_SHARE, Examples, open_splits
from recipes.text import text_tiny
from recipes.vision import vision_tiny
from tests.recipes.finetune.pictures import NUM_IMAGES, write_images
from tests.recipes.finetune.sentences import TEST, TRAIN, write_sentences

UNNAMED = ("", "")


def opened(path: Path, recipe: Any = None, label_column: str = "label") -> tuple[Examples, Examples, list[str]]:
    """Return both parts and the lines that were logged."""
    logged: list[str] = []
    return *open_splits(recipe or vision_tiny(), str(path), label_column, Path(), logged.append), logged


@pytest.fixture
def tokenizer(tiny_prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory contains the tokenizer with which text is opened."""
    monkeypatch.chdir(tiny_prepared)


def write_table(path: Path, labels: list[object]) -> None:
    path.write_text("\n".join(["text,label", *(f"ba do {number},{label}" for number, label in enumerate(labels))]) + "\n")


def test_data_without_a_test_split_give_a_quarter_of_train(tmp_path: Path) -> None:
    fit, held, logged = opened(write_images(tmp_path))
    assert (
        fit.data is held.data
        and sorted(fit.indices + held.indices) == list(range(NUM_IMAGES))
        and len(held.indices) == NUM_IMAGES * TEST_SHARE
    )
    assert held.name.startswith("held-back") and fit.indices != sorted(fit.indices), "shuffled: files come class by class"
    assert logged == ["no other split to test on: 25% of train are held back"]


def test_a_test_split_is_used_if_there_is_one(tmp_path: Path) -> None:
    write_images(tmp_path / "train")
    write_images(tmp_path / "validation", 4)
    fit, held, logged = opened(tmp_path)
    assert (sorted(fit.indices), len(held.data.labels), held.indices, held.name) == (list(range(NUM_IMAGES)), 4, [0, 1, 2, 3], "valid")
    assert fit.indices != sorted(fit.indices), "shuffled: files come class by class, and layers are chosen on the last ones"
    assert opened(tmp_path)[0].indices == fit.indices, "in the same way every time"
    assert not logged


@pytest.mark.usefixtures("tokenizer")
def test_classes_that_only_the_test_split_has_are_left_out_and_logged_and_validation_is_not_used(tmp_path: Path) -> None:
    recipe = replace(text_tiny(), data=replace(text_tiny().data, text_column="sentence"))
    fit, held, logged = opened(write_sentences(tmp_path), recipe, "kind")
    assert (len(fit.data.labels), len(fit.indices), held.name) == (sum(TRAIN.values()), sum(TRAIN.values()), "test")
    assert held.indices == list(range(TEST["new"], sum(TEST.values()))) == [n for n, name in enumerate(held.data.labels) if name != "new"]
    assert logged == [f"split test: 5 of {sum(TEST.values())} examples are of 1 classes that train lacks (new), left out"]


@pytest.mark.usefixtures("tokenizer")
def test_a_test_split_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nba,1\ndo,2\n")
    (tmp_path / "test.csv").write_text("words,label\nba,1\n")
    with pytest.raises(ConfigError, match="no column 'text', there are words, label"):
        opened(tmp_path, text_tiny())


@pytest.mark.usefixtures("tokenizer")
@pytest.mark.parametrize("test", ["text,id\nba,1\n", "text,label\nba,-1\ndo,\n", "text,label\nba,other\n"])
def test_a_test_split_without_labels_or_with_other_classes_is_replaced_by_validation(test: str, tmp_path: Path) -> None:
    write_table(tmp_path / "train.csv", [0, 1, 0, 1])
    write_table(tmp_path / "dev.csv", [1, 0])
    (tmp_path / "test.csv").write_text(test)
    _, held, logged = opened(tmp_path, text_tiny())
    assert (held.name, held.indices) == ("valid", [0, 1])
    assert (
        len(logged) == 1
        and logged[0].startswith("split test")
        and logged[0].endswith(
            (
                "is not used: none of its 1 examples has a label",
                "is not used: none of its 2 examples has a label",
                "(other), so it is not used",
            )
        )
    )


@pytest.mark.parametrize("feature", [datasets.ClassLabel(names=["cat", "dog"]), datasets.Value("int64")])
def test_a_saved_test_split_whose_labels_are_minus_one_is_replaced_by_validation(feature: Any, tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    rows = {"train": [0, 1, -1, 1], "validation": [1, 0, 0], "test": [-1, -1]}
    splits = {
        split: datasets.Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * len(labels), "label": labels}, features=features)
        for split, labels in rows.items()
    }
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    fit, held, logged = opened(tmp_path / "saved")
    assert (sorted(fit.indices), held.name, held.indices) == ([0, 1, 3], "valid", [0, 1, 2])
    assert logged == [
        "split train: 1 of 4 examples are left out, no label (missing, empty or -1) or no text",
        "split test is not used: none of its 2 examples has a label",
    ]


def test_a_test_folder_without_class_folders_is_replaced_by_validation_or_a_part_of_train(tmp_path: Path) -> None:
    write_images(tmp_path / "train")
    write_images(tmp_path / "test", 3, UNNAMED)
    assert opened(tmp_path)[1].name.startswith("held-back")
    write_images(tmp_path / "val", 4)
    assert opened(tmp_path)[1].name == "valid"


@pytest.mark.usefixtures("tokenizer")
def test_one_empty_cell_does_not_make_other_classes_of_numbers_and_a_row_without_text_is_no_example(tmp_path: Path) -> None:
    write_table(tmp_path / "train.csv", [0, 1, 0, 1])
    (tmp_path / "test.csv").write_text("text,label\nba,1\n,1\ndo,\nda,0\n")
    fit, held, logged = opened(tmp_path, text_tiny())
    assert (fit.classes, held.classes, held.indices) == ({"0", "1"}, {"0", "1"}, [0, 3])
    assert logged == ["split test: 2 of 4 examples are left out, no label (missing, empty or -1) or no text"]


@pytest.mark.usefixtures("tokenizer")
def test_the_error_about_train_without_labels_lists_the_columns(tmp_path: Path) -> None:
    write_table(tmp_path / "train.csv", [0, 1])
    with pytest.raises(
        ConfigError, match=r"2 of 2 items .* column 'kind' gives none, the columns are text, label; .* --label-column NAME$"
    ):
        opened(tmp_path, text_tiny(), "kind")
    (tmp_path / "list.csv").write_text("path,class\na.png,1\n")
    with pytest.raises(ConfigError, match="column 'label' gives none, the columns are path, class; "):
        opened(tmp_path / "list.csv")


def test_a_list_of_files_is_train_and_a_quarter_of_it_is_held_back(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{number}.png,{number % 2}\n" for number in range(8)))
    fit, held, _ = opened(tmp_path / "list.csv")
    assert (len(fit.indices), len(held.indices), fit.classes) == (6, 2, {"0", "1"})


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, 2, UNNAMED)
    with pytest.raises(ConfigError, match=r"2 of 2 items of split train have no label \(missing, empty or -1\); give data with one folder"):
        opened(tmp_path)


def test_data_of_one_class_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, 4, ("red", "red"))
    with pytest.raises(ConfigError, match="one class only, 'red'; give data with two or more"):
        opened(tmp_path)
