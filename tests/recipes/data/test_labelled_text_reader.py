"""Labelled texts become tokens: one text, a pair, and how a text that is too long is cut."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.labelled_folder import load_info, load_split_of
from recipes.data.labelled_prepare import prepare_labelled
from recipes.data.labelled_text_reader import LabelledTextReader, check_tokenizer, joined, read_table
from recipes.data.tokenizer import EOS, build_tokenize, read_tokenizer
from recipes.errors import DataMismatch
from tests.recipes.data.glue_files import write_glue
from tests.recipes.data.labelled_texts import recipe_of, write_texts


def parts_of(lengths: Sequence[int]) -> list[np.ndarray]:
    """Tokens of texts with these lengths: a text's tokens differ, and from those of the other text."""
    return [np.arange(length) + 100 * (number + 1) for number, length in enumerate(lengths)]


def test_a_text_and_a_pair_have_the_published_form() -> None:
    assert joined(parts_of([2]), 9).tolist() == [0, 100, 101, 2]
    assert joined(parts_of([2, 1]), 9).tolist() == [0, 100, 101, 2, 2, 200, 2]


def test_a_long_text_is_cut_at_its_end_and_keeps_its_last_symbol() -> None:
    assert joined(parts_of([9]), 5).tolist() == [0, 100, 101, 102, EOS]


@pytest.fixture(scope="module")
def roberta():
    """RobertaTokenizer of transformers, whose words are letters: `a` has id 4."""
    from transformers import RobertaTokenizer

    letters = {letter: 4 + number for number, letter in enumerate("abcdefgh")}
    return RobertaTokenizer(vocab={"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **letters, "<mask>": 12}, merges=[])


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.text("abcdefgh", min_size=1, max_size=14), min_size=1, max_size=2), room=st.integers(5, 30))
def test_samples_are_those_of_transformers_with_longest_first(roberta, texts: list[str], room: int) -> None:
    """transformers 5.23 has one RobertaTokenizer, the one in Rust."""
    parts = [np.array([4 + "abcdefgh".index(letter) for letter in text]) for text in texts]
    assert joined(parts, room).tolist() == roberta(*texts, truncation="longest_first", max_length=room)["input_ids"]


def test_cells_are_texts_without_spaces_at_the_ends_and_an_empty_one_is_none(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,other,label\n a b ,c,x\n,c,x\nd,  ,x\n")
    recipe = recipe_of(tmp_path, "data.text_columns=text,other")
    split = LabelledTextReader(recipe, None).read("train")
    assert split.contents == [("a b", "c"), None, None] and split.cells == ["x"] * 3 and split.has_labels


def test_the_tokenizer_is_trained_on_the_training_texts(tmp_path: Path) -> None:
    lines: list[str] = []
    recipe = recipe_of(write_texts(tmp_path / "data"), "data.text_columns=text,other")
    folder = prepare_labelled(recipe, tmp_path / "out", lambda recipe: LabelledTextReader(recipe, None, lines.append), lines.append)
    info, stored = load_info(folder), load_split_of(folder, "valid")
    assert info.counts == {"train": 40, "valid": 9, "test": 7} and info.tokenizer == "tokenizer.model" and info.encoding == 2
    assert lines == [
        "training a bpe tokenizer of 100 symbols on 40 training samples",
        "prepared labelled samples: 40 train, 9 valid, 7 test",
        "objective.labels, from the training data: 3 (a, b, c)",
    ]
    first, second = stored.rows[0].shown.split(" | ")
    tokenize = build_tokenize(read_tokenizer(folder / "tokenizer.model", 100))
    expected = joined([np.array(ids) for ids in tokenize([first, second])], 32)
    assert stored.arrays["tokens"][: stored.arrays["ends"][0]].tolist() == expected.tolist()
    assert stored.arrays["tokens"].dtype == np.uint16


def test_a_given_tokenizer_is_kept_and_texts_that_are_cut_are_counted(tmp_path: Path) -> None:
    data = write_texts(tmp_path / "data", {"train": 40, "valid": 9})
    first = prepare_labelled(recipe_of(data), tmp_path / "first", lambda recipe: LabelledTextReader(recipe, None))
    given, lines = first / "tokenizer.model", list[str]()
    short = recipe_of(data, "data.sequence_length=6")
    folder = prepare_labelled(short, tmp_path / "out", lambda recipe: LabelledTextReader(recipe, given, lines.append))
    assert (folder / "tokenizer.model").read_bytes() == given.read_bytes()
    for split, line in zip(("train", "valid"), lines, strict=True):
        lengths_N = np.diff(load_split_of(first, split).arrays["ends"], prepend=0)
        cut_N = np.diff(load_split_of(folder, split).arrays["ends"], prepend=0)
        assert line == f"{(lengths_N > 6).sum()} of {len(lengths_N)} texts are cut to data.sequence_length 6 tokens"
        assert np.array_equal(cut_N, np.minimum(lengths_N, 6))


def test_a_folder_with_another_tokenizer_is_a_mismatch(tmp_path: Path) -> None:
    folders = []
    for name in ("a", "b"):
        recipe = recipe_of(write_texts(tmp_path / name, {"train": 40 + len(folders), "valid": 9}))
        folders.append(prepare_labelled(recipe, tmp_path / f"out_{name}", lambda recipe: LabelledTextReader(recipe, None)))
    check_tokenizer(folders[0], None, 100)
    check_tokenizer(folders[0], folders[0] / "tokenizer.model", 100)
    with pytest.raises(DataMismatch, match=r"out_a: prepared with another tokenizer than .*out_b.tokenizer\.model; --set data\.tok"):
        check_tokenizer(folders[0], folders[1] / "tokenizer.model", 100)
    with pytest.raises(DataMismatch, match=r"prepared with frontend\.vocab_size 100, now 90; remove it"):
        check_tokenizer(folders[0], None, 90)


def test_a_task_of_glue_reads_its_published_files(tmp_path: Path) -> None:
    recipe = recipe_of(write_glue(tmp_path / "glue"), task="qnli")
    assert set(read_table(recipe.data, "validation").cells) == {"question", "sentence", "label"}
