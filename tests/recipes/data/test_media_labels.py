"""Labels of recordings are the cells of a table or list as they stand there, or the folders of files."""

from pathlib import Path

import datasets

from recipes.data.audio import AUDIO
from recipes.data.media import Media
from recipes.data.media_labels import labels_of
from recipes.data.media_source import open_media
from tests.recipes.data.labelled_recordings import write_split
from tests.recipes.data.recordings import encode, noise, write_recordings


def opened(path: Path, label_column: str = "label") -> Media:
    return open_media(str(path), AUDIO, column="audio", label_column=label_column)


def test_transcripts_of_a_table_are_not_changed(tmp_path: Path) -> None:
    said = ["10.", "-1", None, " two  words"]
    media = opened(write_split(tmp_path, "train", [400] * 4, text=said) / "train.parquet", "text")
    assert labels_of(media, "text") == (said, None, True)


def test_numbered_classes_come_with_their_names(tmp_path: Path) -> None:
    features = datasets.Features({"audio": {"bytes": datasets.Value("binary")}, "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"audio": [{"bytes": encode(noise(400))}] * 2, "label": [1, 0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    cells, names, exist = labels_of(opened(tmp_path / "saved"), "label")
    assert (list(cells), names, exist) == ([1, 0], ["no", "yes"], True)


def test_a_table_without_the_column_has_no_labels(tmp_path: Path) -> None:
    media = opened(write_split(tmp_path, "train", [400] * 2) / "train.parquet", "said")
    assert labels_of(media, "said") == ([None, None], None, False)


def test_a_list_of_files_has_those_of_its_column(tmp_path: Path) -> None:
    write_recordings(tmp_path, [400, 400])
    (tmp_path / "list.csv").write_text("audio,text\n000.wav,one\n001.wav,\n")
    assert labels_of(opened(tmp_path / "list.csv", "text"), "text")[::2] == (["one", None], True)
    assert not labels_of(opened(tmp_path / "list.csv", "label"), "label").exist


def test_folders_are_classes_and_files_without_folders_have_none(tmp_path: Path) -> None:
    for name in ("no", "yes"):
        write_recordings(tmp_path / "classes" / name, [400])
    assert labels_of(opened(tmp_path / "classes"), "label") == (["no", "yes"], None, True)
    assert labels_of(opened(write_recordings(tmp_path / "plain", [400])), "label") == ([None], None, False)
