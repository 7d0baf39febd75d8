"""Splits: which part of a folder is training data by its names. An unclear case is an error, and everything that is left out is logged."""

from pathlib import Path

import pytest

from recipes.data.folder import Listing
from recipes.data.splits import ALL, Choice, check_file, choose_files, choose_names, find_split_name, split_of
from recipes.errors import ConfigError, MissingSplit

LIBRISPEECH = "train-clean-100/1/a.wav train-other-500/2/b.wav dev-clean/3/c.wav test-clean/4/d.wav test-other/4/e.wav"
IMAGENET = "ILSVRC/Data/CLS-LOC/train/n01/a.wav ILSVRC/Data/CLS-LOC/val/b.wav ILSVRC/Data/CLS-LOC/test/c.wav"


def choose(names: str, wanted: str | None = None, *, folder: str = "/d") -> Choice:
    """Choose files of a folder with these names. A .wav is a single item."""
    paths = sorted(names.split())
    return choose_files(Listing(Path(folder), paths), paths, wanted, is_item=lambda path: path.endswith(".wav"))


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (LIBRISPEECH, "train-clean-100/1/a.wav train-other-500/2/b.wav"),
        (IMAGENET, "ILSVRC/Data/CLS-LOC/train/n01/a.wav"),
        ("images/train2017/a.wav images/val2017/b.wav", "images/train2017/a.wav"),
        ("Train/a.wav Test/b.wav", "Train/a.wav"),
        ("training/a.wav testing/b.wav", "training/a.wav"),
        ("TRAIN/x/a.wav evaluation/x/b.wav", "TRAIN/x/a.wav"),
        ("trainA/a.wav trainB/b.wav testA/c.wav testB/d.wav", "trainA/a.wav trainB/b.wav"),
        ("wrapper/trainset/a.wav wrapper/devset/b.wav", "wrapper/trainset/a.wav"),
        ("training_data/train/a.wav training_data/val/b.wav", "training_data/train/a.wav"),
        ("cat/train/a.wav cat/test/b.wav dog/train/c.wav dog/test/d.wav", "cat/train/a.wav dog/train/c.wav"),
        ("A/train/a.wav A/test/b.wav B/c.wav", "A/train/a.wav B/c.wav"),
        ("train-00000-of-00002.parquet train-00001-of-00002.parquet test-00000-of-00001.parquet", "train-0000[01]-of-00002.parquet"),
        ("data/train.jsonl.gz data/validation.jsonl.gz data/test.jsonl.gz", "data/train.jsonl.gz"),
        ("wiki.train.txt wiki.valid.txt wiki.test.txt", "wiki.train.txt"),
        ("train_1.wav train_2.wav test_1.wav", "train_1.wav train_2.wav"),
        ("train/dog/a.wav train/test/b.wav val/dog/c.wav", "train/dog/a.wav train/test/b.wav"),
    ],
)
def test_files_that_names_mark_as_train_are_taken_and_the_rest_is_logged(names: str, taken: str) -> None:
    choice = choose(names)
    expected = taken.split() if "[01]" not in taken else [taken.replace("[01]", digit) for digit in "01"]
    assert (choice.name, choice.paths) == ("train", expected)
    num_left = len(names.split()) - len(expected)
    assert "; left out: " in choice.describe([]) and sum(len(part.paths) for part in choice.left) == num_left


@pytest.mark.parametrize(
    "names",
    [
        "dog/a.wav cat/b.wav",
        "train/a.wav cat/b.wav dog/c.wav",  # a class: the vehicle
        "bullet_train/a.wav test_tube/b.wav cat/c.wav dog/d.wav fox/e.wav",
        "train.wav test.wav a.wav b.wav",
        "test.wav",
        "a.txt b.txt c.txt how_to_train_a_dog.txt the_test_of_time.txt",
        "train/a.wav",
        "train-clean-100/a.wav train-other-500/b.wav",
        "train.txt",
    ],
)
def test_if_no_name_marks_another_split_all_files_are_taken(names: str) -> None:
    for wanted in (None, "train", ALL):
        choice = choose(names, wanted)
        assert (choice.name, choice.paths, choice.left, choice.root) == (ALL, sorted(names.split()), [], "")
    assert choose(names).describe([]).startswith(f"all: {len(names.split())} file")


@pytest.mark.parametrize(
    ("names", "there", "train"),
    [
        ("dog/a.wav cat/b.wav test/c.wav", "1 in cat, 1 in dog, 1 of test", "cat/b.wav dog/a.wav"),
        ("a.wav test/b.wav", "1 in no sub-folder, 1 of test", "a.wav"),
        ("train/a.wav test/b.wav extra/c.wav", "1 in extra, 1 of test, 1 of train", "train/a.wav"),
        ("a.txt b.txt test.txt", "2 in no sub-folder, 1 of test", "a.txt b.txt"),
        ("test/a.wav", "1 of test", None),
        ("dev-clean/a.wav test-clean/b.wav", "1 of dev-clean, 1 of test-clean", None),
        ("more/test/a.wav dog/b.wav", "1 in dog, 1 of more/test", "dog/b.wav"),
    ],
)
def test_unclear_names_are_an_error(names: str, there: str, train: str | None) -> None:
    advice = r"data\.split=all or the name of a folder" if train is None else r"data\.split=train, data\.split=all or the name of a folder"
    with pytest.raises(ConfigError, match=rf"^/d: .* there are {there}; --set {advice}"):
        choose(names)
    assert choose(names, ALL).paths == sorted(names.split())
    if train is None:
        with pytest.raises(MissingSplit):
            choose(names, "train")
    else:
        assert choose(names, "train").paths == train.split()


def test_a_split_can_be_requested_by_each_of_its_names() -> None:
    for wanted in ("valid", "validation", "VAL", "dev"):
        assert choose(LIBRISPEECH, wanted).paths == ["dev-clean/3/c.wav"]
    assert choose(LIBRISPEECH, "test").paths == ["test-clean/4/d.wav", "test-other/4/e.wav"]
    with pytest.raises(MissingSplit, match=r"no split 'test', there are 1 of train, 1 of val; point --data at data that has one"):
        choose("train/a.wav val/b.wav", "test")
    with pytest.raises(MissingSplit, match=r"no split 'valid', its 2 files are one; put them into train/ and valid/"):
        choose("a.wav b.wav", "valid")


def test_any_other_name_selects_a_folder_its_path_or_a_file() -> None:
    assert choose(LIBRISPEECH, "Train-Clean-100").paths == ["train-clean-100/1/a.wav"]
    assert choose(IMAGENET, "ILSVRC/Data/CLS-LOC/val/").paths == ["ILSVRC/Data/CLS-LOC/val/b.wav"]
    assert choose("train.txt test.txt unsup-00000-of-00001.txt", "unsup").paths == ["unsup-00000-of-00001.txt"]
    choice = choose("dog/a.wav dog/small/b.wav cat/c.wav", "dog")
    assert choice.paths == ["dog/a.wav", "dog/small/b.wav"]
    assert choice.describe([]) == "dog: 2 files (2 .wav); left out: 1 in cat"
    with pytest.raises(MissingSplit, match="no split 'fox', there are 1 in cat, 1 in dog; name one of them"):
        choose("dog/a.wav cat/c.wav", "fox")
    with pytest.raises(MissingSplit, match=r"no split 'trian', did you mean train\? there are 1 in cat, 1 in dog; name one of them"):
        choose("dog/a.wav cat/c.wav", "trian")
    with pytest.raises(MissingSplit, match=r"'tset' was asked for; did you mean test\?$"):
        check_file(Path("a.csv"), "tset")
    with pytest.raises(MissingSplit, match=r"no split 'trian', did you mean train\? there are train, test; point --data"):
        choose_names("d", ["train", "test"], "trian")


def test_classes_are_the_folders_without_the_names_of_splits() -> None:
    def classes(names: str, wanted: str | None = None) -> tuple[str, list[str | None] | None]:
        choice = choose(names, wanted)
        return choice.root, choice.labels

    assert classes("dog/a.wav cat/b.wav train/c.wav") == ("", None), "None: use the folder as it is, so train is a class too"
    assert classes("train/dog/a.wav test/dog/b.wav") == ("train", None)
    assert classes(IMAGENET) == ("ILSVRC/Data/CLS-LOC/train", None)
    assert classes(LIBRISPEECH) == ("", ["1", "2"]) and classes(LIBRISPEECH, "valid") == ("dev-clean", None)
    for split in ("train", "test"):
        assert classes("cat/train/a.wav cat/test/b.wav dog/train/x/c.wav dog/test/x/d.wav", split) == ("", ["cat", "dog/x"])
    assert classes("set/train_1.wav set/test_1.wav") == ("", [None])


def test_the_line_has_every_count(tmp_path: Path) -> None:
    paths = sorted(["train/a.wav", "train/b.mp3", "test/c.wav"])
    listing = Listing(Path("/d"), [*paths, "x.tsv"], hidden=[".a", "b/.c"], skipped=["/d/b: Permission denied"])
    choice = choose_files(listing, paths, None, is_item=lambda path: True)
    line = "train: 2 files (1 .wav, 1 .mp3) of train; left out: 1 of test, 1 .tsv, 2 hidden; /d/b: Permission denied"
    assert choice.describe(["x.tsv"]) == line
    many = " ".join(f"{number}/train/a.wav {number}/test/b.wav {number}/test/c.wav" for number in range(7))
    assert choose(many).describe([]).endswith(" of 0/train, 1/train, 2/train, 3/train, 4/train, 2 more; left out: 14 of 7 places of test")
    assert choose("A/train/a.wav A/test/b.wav B/c.wav B/d.wav").describe([]) == (
        "train: 3 files (3 .wav) of A/train and 2 that are named for no split; left out: 1 of A/test"
    )
    (tmp_path / "a.wav").touch()
    links = Listing(tmp_path, ["a.wav", "b.wav"], {"b.wav": str(tmp_path / "a.wav")}, {"": str(tmp_path)})
    assert (
        choose_files(links, links.files, None, is_item=lambda path: True)
        .describe([])
        .endswith("; left out: 1 links to files that are read anyway")
    )


def test_named_splits_of_a_stored_set() -> None:
    assert choose_names("d", ["train", "test"], None) == ["train"]
    assert choose_names("d", ["train", "train.extra", "test"], None) == ["train"]
    assert choose_names("d", ["train.100", "test"], "train.100") == ["train.100"]
    assert choose_names("d", ["training", "validation"], "dev") == ["validation"]
    assert choose_names("d", ["train", "test"], ALL) == ["train", "test"]
    with pytest.raises(MissingSplit, match="d: no split 'train', there are test, unsupervised; point --data at data that has one"):
        choose_names("d", ["test", "unsupervised"], None)


def test_split_names_are_found_between_other_words_and_digits() -> None:
    found = {
        name: find_split_name(name)
        for name in ("train2017", "val", "test-clean", "trainA", "bullet_train", "pretrain", "103-1240", "contest")
    }
    assert {name: word and (*word,) for name, word in found.items()} == {
        "train2017": ("train", True),
        "val": ("valid", True),
        "test-clean": ("test", False),
        "trainA": ("train", False),
        "bullet_train": ("train", False),
        "pretrain": None,
        "103-1240": None,
        "contest": None,
    }
    assert split_of("Validation") == "valid" and split_of("unsupervised") == "unsupervised"
