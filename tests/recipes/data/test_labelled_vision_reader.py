"""Labelled images are read from folders and tables with their labels, and prepared without decoding: splits, places, unreadable files."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes.config import Recipe
from recipes.data.labelled_folder import load_info, load_split_of
from recipes.data.labelled_prepare import prepare_labelled
from recipes.data.labelled_vision_reader import LabelledVisionReader, open_pictures
from recipes.errors import ConfigError, MissingSplit
from recipes.finetune.vision_tasks import VISION_TASKS, vision_recipe
from recipes.vision import vision_tiny
from tests.recipes.finetune.pictures import write_images


def recipe_of(path: Path, **changes: Any) -> Recipe:
    """Return the recipe of a classification of the images at `path`."""
    recipe = vision_recipe("classify", VISION_TASKS["classify"], vision_tiny())
    return replace(recipe, data=replace(recipe.data, path=str(path), **changes))


def write_splits(folder: Path) -> Path:
    """Write training and test images in folders of classes."""
    write_images(folder / "train", 12)
    write_images(folder / "test", 6)
    return folder


def write_table(path: Path, names: list[str | None]) -> Path:
    """Write a parquet file with one image and a label for each name."""
    images = sorted((write_images(path.parent / "pictures", 4)).rglob("*.png"))
    rows = [{"bytes": images[number % 4].read_bytes(), "path": None} for number in range(len(names))]
    pq.write_table(pa.table({"image": rows, "kind": names}), path)
    return path


def prepare(recipe: Recipe, out_dir: Path, say: Callable[[str], Any] = lambda line: None) -> Path:
    """Prepare the recipe's images in this process."""
    return prepare_labelled(recipe, out_dir, lambda found: LabelledVisionReader(found, say, num_processes=1), say)


def test_folders_of_classes_become_splits_with_paths_and_numbers_of_classes(tmp_path: Path) -> None:
    lines: list[str] = []
    recipe = recipe_of(write_splits(tmp_path / "data"), heldout_fraction=0.25)
    prepared = prepare(recipe, tmp_path / "prepared", lines.append)
    info = load_info(prepared)
    assert info.counts == {"train": 9, "valid": 3, "test": 6} and info.values == {"objective.labels": ["blue", "red"]}
    assert info.source == str(tmp_path / "data") and info.unlabelled == []
    assert any("3 of 12 training samples are held out" in line for line in lines), lines
    for name in info.counts:
        split = load_split_of(prepared, name)
        media = open_pictures(prepared, int(split.arrays["media"][0]))
        assert [media.key(item) for item in split.arrays["items"].tolist()] == [row.shown for row in split.rows]
        assert [("blue", "red")[number] for number in split.arrays["target"]] == [row.label for row in split.rows]
        assert all(row.shown.startswith(f"{row.label}/") for row in split.rows)
    shown = {row.shown for name in ("train", "valid") for row in load_split_of(prepared, name).rows}
    assert len(shown) == 12, "train and valid share no image"


def test_rows_of_a_table_are_copied_with_the_labels_of_the_named_column(tmp_path: Path) -> None:
    table = write_table(tmp_path / "train.parquet", ["b", "a", "b", None, "a", "b", "b", "a"] * 5)
    recipe = recipe_of(table, label_column="kind", max_bad_fraction=0.2)
    prepared = prepare(recipe, tmp_path / "prepared")
    content = (table.parent / "pictures").rglob("*.png")
    images = [path.read_bytes() for path in sorted(content)]
    table.unlink()
    split = load_split_of(prepared, "valid")
    media = open_pictures(prepared, 0)
    assert load_info(prepared).counts == {"train": 31, "valid": 4}
    for row, item in zip(split.rows, split.arrays["items"].tolist(), strict=True):
        assert row.shown == f"row {item + 1}" and media.read(item) == images[item % 4]


def test_one_class_a_missing_column_and_folders_without_classes_are_refused(tmp_path: Path) -> None:
    table = write_table(tmp_path / "a" / "train.parquet", ["x"] * 8)
    with pytest.raises(ConfigError, match=r"no column 'label' of labels in split train, there are image, kind; --set"):
        prepare(recipe_of(table), tmp_path / "prepared")
    with pytest.raises(ConfigError, match=r"all 7 training samples are of one class, 'x'"):
        prepare(recipe_of(table, label_column="kind"), tmp_path / "prepared")
    flat = write_images(tmp_path / "flat", 4, ("", ""))
    with pytest.raises(ConfigError, match=r"no column 'label' of labels in split train, and no folder for each class"):
        prepare(recipe_of(flat), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_a_class_that_training_lacks_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "train", 8)
    write_images(tmp_path / "data" / "test", 4, ("blue", "green"))
    with pytest.raises(ConfigError, match=r"split test has classes that the training split lacks: 'green' \(2 times\)"):
        prepare(recipe_of(tmp_path / "data"), tmp_path / "prepared")


def test_files_that_cannot_be_read_are_left_out_up_to_the_allowed_share(tmp_path: Path) -> None:
    images = write_images(tmp_path / "data", 40)
    data = tmp_path / "train.csv"
    rows = [f"data/{path.relative_to(images)},{path.parent.name}" for path in sorted(images.rglob("*.png"))]
    data.write_text("\n".join(["path,label", *rows]) + "\n")
    (images / "red" / "1.png").unlink()
    lines: list[str] = []
    prepared = prepare(recipe_of(data), tmp_path / "prepared", lines.append)
    assert sum(load_info(prepared).counts.values()) == 39
    assert any("red/1.png" in line for line in lines) and any("left out 1 of" in line for line in lines), lines
    with pytest.raises(ConfigError, match=r"1 of 40 images cannot be read, more than the 0 that data\.max_bad_fraction 0 allows: .*1\.png"):
        prepare(recipe_of(data, max_bad_fraction=0.0), tmp_path / "other")


def test_no_image_is_decoded_and_a_missing_split_is_reported_as_such(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 8)
    (data / "red" / "1.png").write_bytes(b"no image")
    assert sum(load_info(prepare(recipe_of(data), tmp_path / "prepared")).counts.values()) == 8
    with pytest.raises(MissingSplit):
        LabelledVisionReader(recipe_of(data), print).read("test")


def test_the_fingerprint_follows_contents_and_labels_and_not_the_place(tmp_path: Path) -> None:
    def fingerprint(name: str) -> str:
        return load_info(prepare(recipe_of(tmp_path / name), tmp_path / f"{name}-prepared")).fingerprint

    write_images(tmp_path / "one", 8)
    write_images(tmp_path / "same", 8)
    write_images(tmp_path / "renamed", 8, ("blue", "green"))
    longer = write_images(tmp_path / "longer", 8)
    with (longer / "red" / "1.png").open("ab") as file:
        file.write(b"more")
    one, same, renamed, other = map(fingerprint, ("one", "same", "renamed", "longer"))
    assert one == same and len({one, renamed, other}) == 3


def test_a_damaged_location_is_one_line(tmp_path: Path) -> None:
    prepared = prepare(recipe_of(write_images(tmp_path / "data", 8)), tmp_path / "prepared")
    (prepared / "items-0" / "location.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"items-0: not readable as prepared data \(.*\); remove .*prepared and prepare it again"):
        open_pictures(prepared, 0)
