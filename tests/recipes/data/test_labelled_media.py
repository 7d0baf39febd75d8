"""A folder with one list of files for each split is read by its lists; transcripts are never the names of folders."""

from pathlib import Path

import pytest

from recipes.data.audio import AUDIO
from recipes.data.labelled_media import open_labelled_media
from recipes.data.media_labels import labels_of
from recipes.errors import ConfigError, MissingSplit


def folder_with_lists(folder: Path) -> Path:
    """Write two lists of three and two recordings, which are not there, and return the folder."""
    (folder / "clips").mkdir(parents=True)
    for split, count in {"train": 3, "test": 2}.items():
        rows = [f"clips/{number}.wav,said {number}" for number in range(count)]
        (folder / f"{split}.csv").write_text("\n".join(["audio,text", *rows]) + "\n")
    return folder


def opened(folder: Path, split: str) -> list[str]:
    media = open_labelled_media(str(folder), AUDIO, column="audio", split=split, label_column="text")
    return [str(cell) for cell in labels_of(media, "text", may_be_folders=False).cells]


def test_the_list_of_a_split_has_its_recordings_and_labels(tmp_path: Path) -> None:
    folder = folder_with_lists(tmp_path / "data")
    assert opened(folder, "train") == ["said 0", "said 1", "said 2"] and opened(folder, "test") == ["said 0", "said 1"]
    (folder / "dev.csv").write_text("audio,text\nclips/0.wav,said\n")
    assert opened(folder, "valid") == ["said"], "dev is a word for valid"


def test_a_split_without_a_list_is_missing_and_two_lists_of_one_are_refused(tmp_path: Path) -> None:
    folder = folder_with_lists(tmp_path / "data")
    with pytest.raises(MissingSplit, match=r"no list of split 'valid'; there are test\.csv, train\.csv"):
        opened(folder, "valid")
    (folder / "train.tsv").write_text("audio\ttext\nclips/0.wav\tsaid\n")
    with pytest.raises(ConfigError, match=r"split 'train' has more than one list \(train\.csv, train\.tsv\); leave one"):
        opened(folder, "train")


def test_folders_are_classes_and_no_transcripts(tmp_path: Path) -> None:
    for name in ("train/yes", "train/no", "test/yes"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.wav").touch()
    media = open_labelled_media(str(tmp_path), AUDIO, column="audio", split="train", label_column="text")
    assert sorted(labels_of(media, "text").cells) == ["no", "yes"]
    assert labels_of(media, "text", may_be_folders=False) == ([None, None], None, False)
