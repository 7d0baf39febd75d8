"""Greedy decoding follows the definition of CTC's map; texts have one space between words and no special symbols."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.scores.ctc import greedy, text_of

ALPHABET = ("<pad>", "<s>", "</s>", "<unk>", "|", "a", "b", "'")


@pytest.mark.parametrize(
    ("best", "labels"),
    [
        ([], []),
        ([0, 0, 0], []),
        ([5, 5, 5], [5]),
        ([5, 0, 5], [5, 5]),
        ([0, 5, 5, 0, 0, 6, 6, 5, 0], [5, 6, 5]),
    ],
)
def test_repeated_symbols_become_one_before_blanks_are_removed(best: list[int], labels: list[int]) -> None:
    assert greedy(np.array(best, int), 0) == labels


@settings(deadline=None)
@given(best=st.lists(st.integers(0, 3), max_size=20), blank=st.integers(0, 3))
def test_greedy_decoding_follows_the_definition(best: list[int], blank: int) -> None:
    runs = [symbol for symbol, _ in itertools.groupby(best)]
    assert greedy(np.array(best, int), blank) == [symbol for symbol in runs if symbol != blank]


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([], ""),
        ([5, 6], "ab"),
        ([4, 5, 4, 4, 6, 7, 4], "a b'"),
        ([1, 5, 3, 6, 2, 0], "ab"),
        ([4, 1, 4], ""),
        ([5, 4, 3, 4, 6], "a b"),
    ],
)
def test_a_text_has_single_spaces_and_no_special_symbols(labels: list[int], text: str) -> None:
    assert text_of(labels, ALPHABET) == text
