"""The items of a data set for embeddings: each line, row or file with its place, in a fixed order."""

import gzip
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
from PIL import Image

from recipes.data.items import ItemPlace, Items
from recipes.data.media import UndecodableError
from recipes.data.tokenizer import stored_tokenizer
from recipes.errors import ConfigError
from recipes.labelled_config import LabelledTextDataConfig
from recipes.modalities.registry import MODALITIES
from tests.launching import tiny_recipe


@pytest.fixture
def open_texts(tiny_prepared: Path) -> Any:
    """A function that opens texts: (path, split, column) -> items."""

    def open_them(path: Path | None, split: str | None = None, column: str | None = None) -> Items:
        text, recipe = MODALITIES["text"], tiny_recipe()
        maker = text.build_maker(recipe, partial(stored_tokenizer, tiny_prepared))
        return text.open_items(recipe, maker, None if path is None else str(path), split, column)

    return open_them


def open_media(modality: str, path: Path, column: str | None = None) -> Items:
    recipe = tiny_recipe(modality)
    maker = MODALITIES[modality].build_maker(recipe, partial(stored_tokenizer, path))
    return MODALITIES[modality].open_items(recipe, maker, str(path), None, column)


def rows_of(items: Items) -> list[int | None]:
    return [items.place(index).row for index in range(len(items))]


def test_each_line_of_a_text_is_an_item_with_its_number_and_blank_lines_are_counted(open_texts: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ba do\n\n  \nki\n" + "lu " * 600_000 + "\nme")
    items = open_texts(tmp_path / "a.txt")
    assert rows_of(items) == [1, 4, 5, 6] and items.num_empty == 2
    assert items.place(1) == ItemPlace(f"{tmp_path / 'a.txt'} line 4", str(tmp_path / "a.txt"), 4) and items.where(1).endswith("line 4")
    assert items.make(2).is_cut and not items.make(3).is_cut


def test_all_files_of_a_folder_are_read_whatever_their_split(open_texts: Any, tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        with gzip.open(tmp_path / name / "a.txt.gz", "wt") as file:
            file.write(f"ba {name}\n")
    assert len(open_texts(tmp_path)) == 2 and len(open_texts(tmp_path, "test")) == 1


@pytest.mark.parametrize("kind", ["csv", "jsonl", "saved"])
def test_each_row_of_a_table_is_an_item(kind: str, open_texts: Any, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        path.write_text("kind,sentence\n1,ba\n2,\n3,do ki\n")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"sentence": text}) + "\n" for text in ("ba", None, "do ki")))
    else:
        datasets.Dataset.from_dict({"sentence": ["ba", None, "do ki"]}).save_to_disk(str(path))
    items = open_texts(path, None, "sentence")
    assert rows_of(items) == [1, 3] and items.num_empty == 1 and items.where(1) == f"{path} row 3"
    with pytest.raises(ConfigError, match=r"no column 'text', there are .*sentence; (--column NAME|--set data.text_column=NAME)"):
        open_texts(path)


def test_the_shipped_sample_is_the_default(open_texts: Any) -> None:
    assert "samples/text" in open_texts(None).name


def test_files_segments_and_single_files_are_items(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / "clips" / name, np.sin(np.arange(16_000)), 16_000)
    (tmp_path / "clips" / "c.wav").write_text("no")
    items = open_media("speech", tmp_path / "clips")
    assert [items.place(index) for index in (0, 2)] == [
        ItemPlace(*[str(tmp_path / "clips" / name)] * 2, None) for name in ("a.wav", "c.wav")
    ]
    with pytest.raises(UndecodableError, match="not audio"):
        items.make(2)
    (tmp_path / "list.csv").write_text("path,start,end\nclips/a.wav,0.25,0.75\n")
    listed = open_media("speech", tmp_path / "list.csv")
    assert len(listed.make(0).example.waveform) == 8000 and listed.where(0).endswith("a.wav 0.250 to 0.750 s")
    one = open_media("speech", tmp_path / "clips" / "b.wav")
    assert len(one) == 1 and np.array_equal(one.make(0).example.waveform, items.make(1).example.waveform)


def test_rows_of_a_table_of_images_are_items_with_their_number(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), (250, 0, 0)).save(tmp_path / "a.png")
    rows = {"thing": [(tmp_path / "a.png").read_bytes()] * 2}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "table.parquet"))
    items = open_media("vision", tmp_path / "table.parquet", "thing")
    assert rows_of(items) == [1, 2] and items.place(1).path == str(tmp_path / "table.parquet")
    with pytest.raises(ConfigError, match=r"no column 'image', there are thing; --column NAME"):
        open_media("vision", tmp_path / "table.parquet")


def test_data_without_a_text_are_refused(open_texts: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n \n")
    with pytest.raises(ConfigError, match=r"a.txt: has no text, 2 lines or rows are empty; point --data at something else$"):
        open_texts(tmp_path / "a.txt")
    with pytest.raises(ConfigError, match=r"--data .*nowhere.txt: no such file or folder"):
        open_texts(tmp_path / "nowhere.txt")


def test_a_network_that_was_trained_on_pairs_reads_the_first_column(tmp_path: Path, tiny_prepared: Path) -> None:
    (tmp_path / "a.csv").write_text("first,second\nba do,ki\n")
    text, recipe = MODALITIES["text"], replace(tiny_recipe(), data=LabelledTextDataConfig(text_columns=("first", "second")))
    maker = text.build_maker(recipe, partial(stored_tokenizer, tiny_prepared))
    items = text.open_items(recipe, maker, str(tmp_path / "a.csv"), None, None)
    assert len(items) == 1 and len(items.make(0).example.inputs) > 2
