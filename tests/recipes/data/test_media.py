"""Media: every kind of data.path gives the same items, a wrong one says what is wrong, and bad items are passed over in order."""

from pathlib import Path

import pytest

from recipes.data.media import BadItem, Files, MediaKind, UndecodableError, allowed_bad, first_good, name_bad, open_media
from recipes.errors import ConfigError, MissingSplit


@pytest.fixture
def kind(tmp_path: Path) -> MediaKind:
    """.wav and .ogg; the sample is one file, and the setting of a column not the usual one."""
    return MediaKind("audio", (".wav", ".ogg"), fill(tmp_path / "sample", "s.wav"), column_option="probe.column")


def fill(folder: Path, *names: str) -> Path:
    """Files that hold their own names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def contents(path: Path | None, kind: MediaKind, split: str = "train") -> list[str]:
    media = open_media(None if path is None else str(path), kind, column="audio", split=split)
    return [media.read(i).decode() for i in range(len(media))]


def refused(path: Path | str, kind: MediaKind, complaint: str, **options: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        open_media(str(path), kind, **{"column": "audio", **options})
    assert "\n" not in str(caught.value)


def test_a_folder_is_its_files_by_name_hidden_ones_and_others_left_out(tmp_path: Path, kind: MediaKind) -> None:
    folder = fill(tmp_path / "data", "b.WAV", "a/z.ogg", "a/y.wav", ".h/x.wav", ".x.wav", "notes.md", "list.csv", "c.wav.txt")
    media = open_media(str(folder), kind, column="audio")
    assert contents(folder, kind) == ["a/y.wav", "a/z.ogg", "b.WAV"]
    assert [media.label(i) for i in range(3)] == ["a", "a", None]
    assert (media.name, media.where(0), media.key(0), media.size(0)) == (str(folder), str(folder / "a/y.wav"), "a/y.wav", 7)
    with media.open(2) as file:
        assert file.read() == b"b.WAV"


def test_no_path_is_the_sample(kind: MediaKind) -> None:
    assert contents(None, kind) == ["s.wav"]


def test_links_to_folders_are_followed_and_circles_are_not(tmp_path: Path, kind: MediaKind) -> None:
    fill(tmp_path / "elsewhere", "x.wav")
    folder = fill(tmp_path / "data", "a/b.wav")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "a" / "circle").symlink_to(folder)
    assert contents(folder, kind) == ["a/b.wav", "x.wav"]


def test_sub_folders_train_and_val_are_splits_and_labels_are_below_them(tmp_path: Path, kind: MediaKind) -> None:
    folder = fill(tmp_path / "data", "train/dog/a.wav", "train/dog/small/b.wav", "val/cat/c.wav", "test/d.wav")
    assert contents(folder, kind) == ["train/dog/a.wav", "train/dog/small/b.wav"]
    assert contents(folder, kind, "valid") == contents(folder, kind, "validation") == ["val/cat/c.wav"]
    media = open_media(str(folder), kind, column="audio")
    assert [media.label(0), media.label(1), media.key(0)] == ["dog", "dog/small", "dog/a.wav"]
    assert open_media(str(folder), kind, column="audio", split="test").label(0) is None


def test_a_split_that_is_not_there_is_told(tmp_path: Path, kind: MediaKind) -> None:
    folder = fill(tmp_path / "data", "train/a.wav", "val/b.wav")
    refused(folder, kind, "no split 'test', there are train, val", split="test")
    assert contents(fill(tmp_path / "one", "train/a.wav", "other/b.wav"), kind) == ["other/b.wav", "train/a.wav"]
    refused(tmp_path / "one", kind, "no split 'valid', its 2 audio files are one; put them into train/ and valid/", split="valid")


def test_a_list_of_files_gives_its_rows_missing_files_and_all(tmp_path: Path, kind: MediaKind) -> None:
    fill(tmp_path / "data", "a.wav", "b.wav")
    (tmp_path / "list.tsv").write_text(f"path\tverdict\ndata/b.wav\tx\ndata/gone.wav\ty\n{tmp_path}/data/a.wav\tz\n")
    media = open_media(str(tmp_path / "list.tsv"), kind, column="audio", label_column="verdict")
    assert [media.where(i) for i in range(3)] == [str(tmp_path / "data" / name) for name in ("b.wav", "gone.wav", "a.wav")]
    assert [media.label(i) for i in range(3)] == ["x", "y", "z"]
    assert media.read(2) == b"a.wav"
    with pytest.raises(FileNotFoundError):
        media.read(1)
    refused(tmp_path / "list.tsv", kind, "a list of files is one split, and 'valid' was asked for", split="valid")


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


def test_split_and_columns_reach_every_kind_of_table(tmp_path: Path, kind: MediaKind, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    train, valid = (datasets.Dataset.from_dict({"sound": [name.encode()], "verdict": [name]}) for name in ("train", "valid"))
    datasets.DatasetDict(train=train, validation=valid).save_to_disk(tmp_path / "saved")
    (tmp_path / "folder").mkdir()
    for name, rows in (("train", train), ("valid", valid)):
        rows.to_parquet(tmp_path / "folder" / f"{name}.parquet")
    asked = {"column": "sound", "split": "valid", "label_column": "verdict"}
    for path in ("saved", "folder"):
        media = open_media(str(tmp_path / path), kind, **asked)
        assert (media.read(0), media.label(0)) == (b"valid", "valid")
    with pytest.raises(MissingSplit):
        open_media(str(tmp_path / "folder" / "train.parquet"), kind, **asked)
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: calls.append((args, options)) or valid)
    assert open_media("owner/name", kind, **asked).label(0) == "valid" and calls == [(("owner/name", None), {"split": "valid"})]


def test_the_home_folder_is_found_by_a_tilde_and_a_name_is_the_full_path(
    tmp_path: Path, kind: MediaKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "data", "a.wav")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in ("~/data", "data", "./data"):
        assert open_media(path, kind, column="audio").name == str(tmp_path / "data")


def test_what_cannot_be_used_is_told_with_the_remedy(tmp_path: Path, kind: MediaKind) -> None:
    folder = fill(tmp_path / "data", "a.wav", "b.parquet", "c.wav")
    refused(folder, kind, r"more than one kind of data \(2 audio files, 1 \.parquet\)")
    refused(folder / "a.wav", kind, "one single audio file; point --data at its folder")
    refused(fill(tmp_path / "x", "x.mp3") / "x.mp3", kind, r"unknown kind of file \.mp3; known are folders of \.wav, \.ogg")
    for name in ("nowhere.tsv", "nowhere.wav", "./nowhere"):
        refused(name, kind, f"--data {name}: no such file or folder")


def test_a_folder_without_items_lists_what_was_found(tmp_path: Path, kind: MediaKind) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", kind, r"no audio in it, found nothing; known are folders of \.wav")
    refused(fill(tmp_path / "text", "a.txt", "b.txt", "c"), kind, r"found 2 \.txt, 1 without suffix; known")
    refused(fill(tmp_path / "lists", "train.tsv"), kind, r"if train\.tsv is a list of files, point --data at it")


def test_a_prepared_folder_is_no_raw_data(tmp_path: Path, kind: MediaKind) -> None:
    refused(fill(tmp_path / "prepared", "prepared.json"), kind, "a prepared folder, .*give the data it was made from")


def decode(content: bytes) -> str:
    """Everything but what begins with x."""
    if content.startswith(b"x"):
        raise UndecodableError("it begins with x")
    return content.decode()


def test_first_good_passes_over_bad_items_in_the_order_it_is_given(tmp_path: Path) -> None:
    fill(tmp_path, "a.wav", "x.wav")
    media = Files("data", str(tmp_path), ["a.wav", "x.wav", "gone.wav"])
    assert first_good(media, [0, 1], decode) == ("a.wav", 0, [])
    bad = [BadItem(str(tmp_path / "gone.wav"), "No such file or directory"), BadItem(str(tmp_path / "x.wav"), "it begins with x")]
    assert first_good(media, [2, 1, 0], decode) == ("a.wav", 0, bad)
    with pytest.raises(ConfigError, match=r"data: none of 2 items can be decoded: .*gone\.wav \(No such file or directory\), .*x\.wav"):
        first_good(media, [2, 1], decode)


def test_other_errors_of_a_decoder_are_not_swallowed(tmp_path: Path) -> None:
    media = Files("data", str(fill(tmp_path, "a.wav")), ["a.wav"])
    with pytest.raises(ZeroDivisionError):
        first_good(media, [0], lambda content: 1 // 0)


def test_ten_bad_items_are_named_and_the_rest_counted() -> None:
    bad = [BadItem(f"{i}.wav", "empty file") for i in range(12)]
    assert name_bad(bad[:2]) == "0.wav (empty file), 1.wav (empty file)"
    assert name_bad(bad).endswith("9.wav (empty file) and 2 more") and "10.wav" not in name_bad(bad)


def test_a_file_name_that_is_no_utf_8_can_be_printed(tmp_path: Path) -> None:
    media = Files("data", str(tmp_path), ["caf\udce9.wav"])
    with pytest.raises(ConfigError, match=r"caf\\udce9\.wav"):
        first_good(media, [0], decode)


@pytest.mark.parametrize(
    ("num_items", "max_fraction", "allowed"),
    [
        (1000, 0.01, 10),
        (1000, 0.0101, 10),
        (299, 0.01, 3),
        (57, 0.01, 3),
        (12, 0.01, 3),
        (11, 0.01, 2),
        (4, 0.01, 1),
        (3, 0.01, 0),
        (10, 1.0, 10),
        (57, 0.0, 0),
    ],
)
def test_a_share_of_the_items_may_be_bad_and_of_a_small_set_a_few(num_items: int, max_fraction: float, allowed: int) -> None:
    assert allowed_bad(num_items, max_fraction) == allowed
