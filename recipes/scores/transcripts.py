"""Errors of transcripts: word and letter error rates, as sums that can be added over ranks. Texts are compared as they are: changing
their case or removing punctuation is left to the callers."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EditCounts:
    """Insertions, deletions and substitutions that turn hypotheses into their references, and the total length of the references. Counts
    of parts of a set are added."""

    edits: int = 0
    length: int = 0

    @property
    def rate(self) -> float:
        """Edits for each word or letter of the references; it may exceed 1. If all references are empty, it is the number of edits, as in
        jiwer."""
        return self.edits / max(self.length, 1)

    def __add__(self, other: "EditCounts") -> "EditCounts":
        return EditCounts(self.edits + other.edits, self.length + other.length)


def word_edits(references: Sequence[str], hypotheses: Sequence[str]) -> EditCounts:
    """Return the edits by words of a whole set; words are separated by white space. `rate` is the word error rate (WER)."""
    return _total([text.split() for text in references], [text.split() for text in hypotheses])


def letter_edits(references: Sequence[str], hypotheses: Sequence[str]) -> EditCounts:
    """Return the edits by letters of a whole set; a space counts as a letter, except for those at both ends. `rate` is the letter error
    rate (CER)."""
    return _total([text.strip() for text in references], [text.strip() for text in hypotheses])


def edit_distance(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> int:
    """Return the least number of insertions, deletions and substitutions between two sequences.

    A column of the usual table is held as its differences from row to row, one bit each for +1 and -1. So one step of the loop works on
    a whole column, in integers of any length.
    Source: Myers 1999, "A fast bit-vector algorithm for approximate string matching", in the form of Hyyrö 2003, "A bit-vector
    algorithm for computing Levenshtein and Damerau edit distances".
    """
    places: dict[Hashable, int] = {}
    for row, item in enumerate(reference):
        places[item] = places.get(item, 0) | 1 << row
    every_row = (1 << len(reference)) - 1
    last_row = 1 << len(reference) >> 1
    plus, minus, distance = every_row, 0, len(reference)
    for item in hypothesis:
        equal = places.get(item, 0)
        diagonal = (((equal & plus) + plus) ^ plus) | equal | minus
        plus_across = minus | ~(diagonal | plus) & every_row
        minus_across = plus & diagonal
        distance += bool(plus_across & last_row) - bool(minus_across & last_row)
        plus_across = plus_across << 1 | 1  # row 0 of the table grows by 1 with each column
        minus_across <<= 1
        plus = (minus_across | ~(diagonal | plus_across)) & every_row
        minus = plus_across & diagonal & every_row
    return distance if reference else len(hypothesis)


def _total(references: Sequence[Sequence[Hashable]], hypotheses: Sequence[Sequence[Hashable]]) -> EditCounts:
    edits = sum(edit_distance(reference, hypothesis) for reference, hypothesis in zip(references, hypotheses, strict=True))
    return EditCounts(edits, sum(map(len, references)))
