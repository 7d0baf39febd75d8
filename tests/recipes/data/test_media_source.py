"""Media sources: every kind of data.path gives the same items, and the error for a wrong one gives the reason."""

from pathlib import Path

import pytest

from recipes.data.media import MediaKind
from recipes.data.media_source import open_media
from recipes.errors import ConfigError, MissingSplit


@pytest.fixture
def kind(tmp_path: Path) -> MediaKind:
    """A kind with .wav and .ogg. Its sample is one file, and the name of its column setting is not the default."""
    return MediaKind("audio", (".wav", ".ogg"), fill(tmp_path / "sample", "s.wav"), column_option="--set probe.column=")


def fill(folder: Path, *names: str) -> Path:
    """Create files whose content is their own name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def contents(path: Path | None, kind: MediaKind, split: str | None = None) -> list[str]:
    media = open_media(None if path is None else str(path), kind, column="audio", split=split)
    return [media.read(i).decode() for i in range(len(media))]


def refused(path: Path | str, kind: MediaKind, complaint: str, **options: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        open_media(str(path), kind, **{"column": "audio", **options})
    assert "\n" not in str(caught.value)


def test_a_folder_gives_its_files_sorted_without_hidden_and_other_files(tmp_path: Path, kind: MediaKind) -> None:
    folder = fill(tmp_path / "data", "b.WAV", "a/z.ogg", "a/y.wav", ".h/x.wav", ".x.wav", "notes.md", "list.csv", "c.wav.txt")
    media = open_media(str(folder), kind, column="audio")
    assert contents(folder, kind) == ["a/y.wav", "a/z.ogg", "b.WAV"]
    assert [media.label(i) for i in range(3)] == ["a", "a", None]
    assert (media.name, media.where(0), media.key(0), media.size(0)) == (str(folder), str(folder / "a/y.wav"), "a/y.wav", 7)
    with media.open(2) as file:
        assert file.read() == b"b.WAV"


def test_without_a_path_the_sample_is_read(kind: MediaKind) -> None:
    assert contents(None, kind) == ["s.wav"]


def test_links_to_folders_are_followed_and_circles_are_not(tmp_path: Path, kind: MediaKind) -> None:
    fill(tmp_path / "elsewhere", "x.wav")
    folder = fill(tmp_path / "data", "a/b.wav")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "a" / "circle").symlink_to(folder)
    assert contents(folder, kind) == ["a/b.wav", "x.wav"]


def test_sub_folders_train_and_val_are_splits_and_the_folders_below_are_labels(tmp_path: Path, kind: MediaKind) -> None:
    folder = fill(tmp_path / "data", "train/dog/a.wav", "train/dog/small/b.wav", "val/cat/c.wav", "test/d.wav")
    assert contents(folder, kind) == ["train/dog/a.wav", "train/dog/small/b.wav"]
    assert contents(folder, kind, "valid") == contents(folder, kind, "validation") == ["val/cat/c.wav"]
    media = open_media(str(folder), kind, column="audio")
    assert [media.label(0), media.label(1), media.key(0)] == ["dog", "dog/small", "dog/a.wav"]
    assert open_media(str(folder), kind, column="audio", split="test").label(0) is None


def test_a_missing_split_is_refused_with_the_existing_ones(tmp_path: Path, kind: MediaKind) -> None:
    folder = fill(tmp_path / "data", "train/a.wav", "val/b.wav")
    refused(folder, kind, "no split 'test', there are 1 of train, 1 of val", split="test")
    assert contents(fill(tmp_path / "one", "train/a.wav", "other/b.wav"), kind, "train") == ["other/b.wav", "train/a.wav"]
    refused(tmp_path / "one", kind, "no split 'valid', its 2 files are one; put them into train/ and valid/", split="valid")


def test_a_list_of_files_gives_all_its_rows_also_those_of_missing_files(tmp_path: Path, kind: MediaKind) -> None:
    fill(tmp_path / "data", "a.wav", "b.wav")
    (tmp_path / "list.tsv").write_text(f"path\trating\ndata/b.wav\tx\ndata/gone.wav\ty\n{tmp_path}/data/a.wav\tz\n")
    media = open_media(str(tmp_path / "list.tsv"), kind, column="audio", label_column="rating")
    assert [media.where(i) for i in range(3)] == [str(tmp_path / "data" / name) for name in ("b.wav", "gone.wav", "a.wav")]
    assert [media.label(i) for i in range(3)] == ["x", "y", "z"]
    assert media.read(2) == b"a.wav"
    with pytest.raises(FileNotFoundError):
        media.read(1)
    refused(tmp_path / "list.tsv", kind, "one file is one split, and 'valid' was asked for", split="valid")


def test_parquet_saved_data_sets_and_hub_names_are_tables(tmp_path: Path, kind: MediaKind, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = datasets.Dataset.from_dict({"audio": [b"one", b"two"]})
    rows.save_to_disk(tmp_path / "saved")
    (tmp_path / "folder").mkdir()
    rows.to_parquet(tmp_path / "folder" / "some.parquet")
    for path in ("saved", "folder", "folder/some.parquet"):
        assert contents(tmp_path / path, kind) == ["one", "two"]
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: rows)
    media = open_media("owner/name", kind, column="audio")
    assert (media.name, media.read(1)) == ("owner/name", b"two")
    refused("owner/name", kind, r"no column 'sound', there are audio; --set probe\.column=NAME", column="sound")


def test_split_and_columns_are_passed_to_every_kind_of_table(tmp_path: Path, kind: MediaKind, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    train, valid = (datasets.Dataset.from_dict({"sound": [name.encode()], "rating": [name]}) for name in ("train", "valid"))
    datasets.DatasetDict(train=train, validation=valid).save_to_disk(tmp_path / "saved")
    (tmp_path / "folder").mkdir()
    for name, rows in (("train", train), ("valid", valid)):
        rows.to_parquet(tmp_path / "folder" / f"{name}.parquet")
    requested = {"column": "sound", "split": "valid", "label_column": "rating"}
    for path in ("saved", "folder"):
        media = open_media(str(tmp_path / path), kind, **requested)
        assert (media.read(0), media.label(0)) == (b"valid", "valid")
    with pytest.raises(MissingSplit):
        open_media(str(tmp_path / "folder" / "train.parquet"), kind, **requested)
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: calls.append((args, options)) or valid)
    assert open_media("owner/name", kind, **requested).label(0) == "valid" and calls == [(("owner/name", None), {"split": "valid"})]


def test_a_tilde_is_the_home_folder_and_the_name_is_the_full_path(tmp_path: Path, kind: MediaKind, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "data", "a.wav")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in ("~/data", "data", "./data"):
        assert open_media(path, kind, column="audio").name == str(tmp_path / "data")


def test_unusable_data_are_refused_with_the_remedy(tmp_path: Path, kind: MediaKind) -> None:
    folder = fill(tmp_path / "data", "a.wav", "b.parquet", "c.wav")
    refused(folder, kind, r"more than one kind of data \(2 audio files, 1 \.parquet\)")
    refused(folder / "a.wav", kind, "one single audio file; point --data at its folder")
    refused(fill(tmp_path / "x", "x.mp3") / "x.mp3", kind, r"unknown kind of file \.mp3; known are folders of \.wav, \.ogg")
    for name in ("nowhere.tsv", "nowhere.wav", "./nowhere"):
        refused(name, kind, f"--data {name}: no such file or folder")


def test_the_error_for_a_folder_without_items_lists_what_was_found(tmp_path: Path, kind: MediaKind) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", kind, r"no audio in it, found nothing; known are folders of \.wav")
    refused(fill(tmp_path / "text", "a.txt", "b.txt", "c"), kind, r"found 2 \.txt, 1 without suffix; known")
    refused(fill(tmp_path / "lists", "train.tsv"), kind, r"if train\.tsv is a list of files, point --data at it")


def test_a_prepared_folder_is_refused_as_raw_data(tmp_path: Path, kind: MediaKind) -> None:
    refused(fill(tmp_path / "prepared", "prepared.json"), kind, "a prepared folder, .*give the data it was made from")


def test_the_split_of_a_folder_is_found_by_names_and_the_note_says_what_is_left_out(tmp_path: Path, kind: MediaKind) -> None:
    folder = fill(tmp_path / "data", "in/train-1/dog/a.wav", "in/train-2/cat/b.wav", "in/dev-1/dog/c.wav", "in/dev-1/x.mp3", "in/l.tsv")
    media = open_media(str(folder), kind, column="audio")
    assert contents(folder, kind) == ["in/train-1/dog/a.wav", "in/train-2/cat/b.wav"]
    assert ([media.label(0), media.label(1)], media.key(0)) == (["dog", "cat"], "in/train-1/dog/a.wav")
    assert media.note == "train: 2 files (2 .wav) of in/train-1, in/train-2; left out: 1 of in/dev-1, 1 .mp3, 1 .tsv"
    assert contents(folder, kind, "all") == ["in/dev-1/dog/c.wav", *contents(folder, kind, "train")]
    assert contents(folder, kind, "train-2") == ["in/train-2/cat/b.wav"]
    fill(folder, "in/d.wav")
    refused(folder, kind, r"1 in in, 1 of in/dev-1, 1 of in/train-1, 1 of in/train-2; --set data\.split=train, data\.split=all or")


def test_a_link_to_the_test_data_does_not_make_training_data_of_them(tmp_path: Path, kind: MediaKind) -> None:
    folder = fill(tmp_path / "data", "train/a.wav", "test/b.wav")
    (folder / "also").symlink_to("test")
    (folder / "train" / "more").symlink_to(folder / "test")
    assert contents(folder, kind) == ["train/a.wav"] and contents(folder, kind, "test") == ["test/b.wav"]
    fill(tmp_path / "far", "c.wav")
    for name in ("b", "validation"):
        (folder / name).symlink_to(tmp_path / "far")
    assert contents(folder, kind) == ["train/a.wav"] and contents(folder, kind, "valid") == ["c.wav"]
    (folder / "all-of-it").symlink_to("train")
    assert contents(folder, kind) == ["train/a.wav"], "nor do the training data become others"
    (folder / "dev").symlink_to("train")
    refused(folder, kind, "its names do not say which part is training data, there are 1 of dev, 1 of validation, 1 of test")


def test_a_folder_of_parquet_has_splits_by_names_at_any_depth_behind_links_and_with_any_characters(
    tmp_path: Path, kind: MediaKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "far").mkdir()
    (tmp_path / "data [v2]").mkdir()
    (tmp_path / "data [v2]" / "more").symlink_to(tmp_path / "far")
    for name in ("data [v2]/train*.parquet", "data [v2]/train2.parquet", "far/train-00000-of-00001.parquet", "far/test.parquet"):
        datasets.Dataset.from_dict({"audio": [name.encode()]}).to_parquet(tmp_path / name)
    folder = tmp_path / "data [v2]"
    assert contents(folder, kind) == ["far/train-00000-of-00001.parquet", "data [v2]/train*.parquet", "data [v2]/train2.parquet"]
    assert contents(folder, kind, "test") == ["far/test.parquet"]
    assert open_media(str(folder), kind, column="audio").note.endswith("; left out: 1 of more/test")


def test_a_single_file_can_be_train_or_all_but_no_other_split(tmp_path: Path, kind: MediaKind) -> None:
    fill(tmp_path, "a.wav")
    (tmp_path / "test.csv").write_text("path\na.wav\n")
    for split in (None, "train", "all"):
        assert contents(tmp_path / "test.csv", kind, split) == ["a.wav"]
    for split in ("valid", "validation", "test"):
        with pytest.raises(MissingSplit, match=rf"test\.csv: one file is one split, and '{split}' was asked for"):
            contents(tmp_path / "test.csv", kind, split)


def test_labels_of_a_list_name_the_same_classes_as_those_of_tables(tmp_path: Path, kind: MediaKind) -> None:
    rows = [f'{{"path": "{name}.wav", "label": {label}}}' for name, label in zip("abcde", ("NaN", "1.0", "1", '"1"', '["x"]'), strict=True)]
    (tmp_path / "list.jsonl").write_text("\n".join(rows))
    media = open_media(str(tmp_path / "list.jsonl"), kind, column="audio")
    assert [media.label(i) for i in range(4)] == [None, "1", "1", "1"] and len(media) == 5, "only a probe needs one class for each"
    with pytest.raises(ConfigError, match=r"a label is \['x'\], and a probe needs one class for each example"):
        media.label(4)
