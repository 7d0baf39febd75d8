"""The items of a prepared folder: saved items can be opened again, also in other processes, and damage is noticed."""

import pickle
from pathlib import Path

import pytest

from recipes.data.media import Files
from recipes.data.media_items import MappedPaths, open_items, save_items
from recipes.data.media_table import Table, open_saved
from recipes.errors import ConfigError

PATHS = ["a.wav", "b/ü.wav", "b/caf\udce9.wav", "/absolute/c.wav"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "prepared").mkdir()
    return tmp_path / "prepared"


def test_paths_are_read_back_unchanged_in_any_encoding(tmp_path: Path, folder: Path) -> None:
    location = save_items(Files("data", str(tmp_path), PATHS), folder)
    media = open_items(folder, "data", location)
    assert isinstance(media, Files) and list(media.paths) == PATHS == media.paths[:]
    assert (media.name, media.where(1), media.where(3)) == ("data", str(tmp_path / "b/ü.wav"), "/absolute/c.wav")
    assert media.label(1) == "b"
    with pytest.raises(IndexError):
        media.paths[4]


def test_many_paths_are_pickled_as_the_path_of_their_folder(tmp_path: Path, folder: Path) -> None:
    location = save_items(Files("data", str(tmp_path), [f"{i:05}.wav" for i in range(10_000)]), folder)
    media = open_items(folder, "data", location)
    assert media.paths[4094:4098] == ["04094.wav", "04095.wav", "04096.wav", "04097.wav"], "they are written in blocks"
    assert media.key(9_999) == "09999.wav"  # maps the files, which must not be pickled
    pickled = pickle.dumps(media)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).key(9_999) == "09999.wav"


def test_a_saved_table_is_read_in_its_folder_and_any_other_is_copied(tmp_path: Path, folder: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"sound": [b"one", b"two"], "label": [0, 1]})
    rows.save_to_disk(tmp_path / "saved")
    saved = open_saved(tmp_path / "saved", column="sound", split="train", label_column="label", column_option="--set data.column=")
    location = save_items(saved, folder)
    assert location == {"table": str(tmp_path / "saved"), "split": "train", "column": "sound"} and not list(folder.iterdir())
    assert open_items(folder, "mine", location).read(1) == b"two"

    datasets.DatasetDict(train=rows, validation=rows.select([1])).save_to_disk(tmp_path / "both")
    held_out = open_saved(tmp_path / "both", column="sound", split="valid", label_column="label", column_option="--set data.column=")
    media = open_items(folder, "mine", save_items(held_out, folder))
    assert (len(media), media.read(0), media.name) == (1, b"two", "mine")

    location = save_items(Table("hub/name", rows, "sound", "label"), folder)
    assert location == {"column": "sound"} and (folder / "table").is_dir()
    media = open_items(folder, "hub/name", location)
    assert (media.read(0), media.where(0), media.label(0)) == (b"one", "hub/name row 1", None)


def test_damage_is_noticed(tmp_path: Path, folder: Path) -> None:
    location = save_items(Files("data", str(tmp_path), PATHS), folder)
    whole = (folder / "paths.bin").read_bytes()
    (folder / "paths.bin").write_bytes(whole[:-1])
    with pytest.raises(ConfigError, match=r"paths\.bin is damaged; remove the folder and prepare it again"):
        open_items(folder, "data", location)
    (folder / "paths.bin").unlink()
    with pytest.raises(ConfigError, match="its list of files cannot be read"):
        open_items(folder, "data", location)
    (folder / "paths.bin").write_bytes(whole)
    with pytest.raises(ConfigError, match=r"its files were in .*gone, which is not there"):
        open_items(folder, "data", {"root": str(tmp_path / "gone")})
    with pytest.raises(ConfigError, match=r"table: cannot be read as a table"):
        open_items(folder, "data", {"column": "audio"})


def test_an_empty_list_of_paths_is_read_back(tmp_path: Path, folder: Path) -> None:
    save_items(Files("data", str(tmp_path), []), folder)
    assert list(MappedPaths(folder)) == []
