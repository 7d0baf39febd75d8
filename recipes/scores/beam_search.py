"""Prefix beam search over the outputs of a CTC head: the labels with the largest sum over their alignments, optionally with a language
model of words. The n-gram model itself is in recipes/scores/language_model.py.

Shape letters: S frames, V symbols, B prefixes in the beam.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recipes.scores.ctc import DROPPED, WORD_END
from recipes.scores.language_model import LanguageModel

NEVER = -np.inf
"""The logarithm of probability 0."""


@dataclass(frozen=True)
class WordScoring:
    """What each complete word adds to the score of a transcript: weight * log10 p(word | words before) + word_score. The end of the
    sentence adds weight * log10 p(end | words)."""

    model: LanguageModel
    weight: float
    word_score: float


@dataclass(frozen=True)
class Hypothesis:
    """Labels that the search found. `score` is the natural logarithm of their probability, plus what their words add."""

    ids: tuple[int, ...]
    score: float


@dataclass(eq=False, slots=True)
class _Prefix:
    """Labels as a node of a tree, so that equal labels are one object."""

    parent: "_Prefix | None"
    last: int
    added: float
    """What the complete words add to the score."""
    history: Any
    """The language model's value after the complete words."""
    letters: str
    """Those of the word that is not complete."""
    children: "dict[int, _Prefix]" = field(default_factory=dict)
    completed: tuple[float, Any] | None = None
    """`added` and `history` once `letters` are a word too. None: not asked yet."""


@dataclass(frozen=True)
class _Beam:
    """The prefixes that are kept, each with two sums over its alignments so far: those that end in a blank, and those that end in its
    last label. Both are log probabilities."""

    prefixes: list[_Prefix]
    blank_B: np.ndarray
    label_B: np.ndarray

    def totals(self) -> np.ndarray:
        return np.logaddexp(self.blank_B, self.label_B)


def beam_search(
    log_probs_SV: np.ndarray,
    alphabet: Sequence[str],
    *,
    blank: int,
    beam_size: int,
    words: WordScoring | None = None,
) -> list[Hypothesis]:
    """Return the best labels of one utterance, at most beam_size, the best first.

    With a beam that holds every prefix, the scores are exact. A smaller beam leaves alignments out, so without a language model its scores
    are lower bounds. With beam_size 1 the labels may differ from those of greedy decoding, because the search compares sums over
    alignments. Labels that differ only in repeated `|` are separate hypotheses. No symbol is skipped, however improbable it is in a frame:
    the arrays of a frame are small, and a word asks the language model once for all frames.
    Shapes: log_probs_SV (frames, symbols), natural logarithms. `alphabet`: the symbol of each id; `|` ends a word.
    Source: Graves and Jaitly 2014, "Towards end-to-end speech recognition with recurrent neural networks", algorithm 1; Hannun et al.
    2014, "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs", algorithm 1.
    """
    log_probs_SV = np.asarray(log_probs_SV, np.float64)
    assert log_probs_SV.ndim == 2 and log_probs_SV.shape[1] == len(alphabet), (log_probs_SV.shape, len(alphabet))
    assert beam_size >= 1
    assert not np.isnan(log_probs_SV).any() and (log_probs_SV > NEVER).any(axis=1).all(), "a frame without a possible symbol"
    search = _Search(alphabet, blank, words)
    beam = search.first()
    for log_probs_V in log_probs_SV:
        beam = search.advance(beam, log_probs_V, beam_size)
    scores = [float(total) + search.added_at_end(prefix) for total, prefix in zip(beam.totals(), beam.prefixes, strict=True)]
    found = [Hypothesis(_ids(prefix), score) for score, prefix in zip(scores, beam.prefixes, strict=True)]
    return sorted(found, key=lambda one: one.score, reverse=True)


class _Search:
    """The steps of a search, with what stays the same from frame to frame."""

    def __init__(self, alphabet: Sequence[str], blank: int, words: WordScoring | None) -> None:
        self._blank = blank
        self._words = words
        self._letters = ["" if symbol in DROPPED else symbol for symbol in alphabet]
        self._word_ends = [index for index, symbol in enumerate(alphabet) if symbol == WORD_END]

    def first(self) -> _Beam:
        """Return the beam before the first frame: the empty prefix, as if a blank came before."""
        history = self._words.model.start() if self._words else None
        return _Beam([_Prefix(None, self._blank, 0.0, history, "")], np.zeros(1), np.full(1, NEVER))

    def advance(self, beam: _Beam, log_probs_V: np.ndarray, beam_size: int) -> _Beam:
        """Return the beam after one more frame."""
        last_B = np.array([prefix.last for prefix in beam.prefixes])
        blank_B = beam.totals() + log_probs_V[self._blank]
        label_B = beam.label_B + log_probs_V[last_B]
        longer_BV = beam.totals()[:, None] + log_probs_V
        longer_BV[np.arange(len(last_B)), last_B] = beam.blank_B + log_probs_V[last_B]  # two equal labels need a blank between them
        longer_BV[:, self._blank] = NEVER
        places = {prefix: place for place, prefix in enumerate(beam.prefixes)}
        for place, prefix in enumerate(beam.prefixes):
            parent = places.get(prefix.parent) if prefix.parent else None
            if parent is not None:  # its parent reaches it too: one sum for both ways, and one place in the beam
                label_B[place] = np.logaddexp(label_B[place], longer_BV[parent, prefix.last])
                longer_BV[parent, prefix.last] = NEVER
        kept = _best(self._scores(beam.prefixes, np.logaddexp(blank_B, label_B), longer_BV), beam_size)
        stays = kept[kept < len(last_B)]
        parents, symbols = np.divmod(kept[kept >= len(last_B)] - len(last_B), len(log_probs_V))
        children = [self._child(beam.prefixes[place], int(symbol)) for place, symbol in zip(parents, symbols, strict=True)]
        return _Beam(
            [beam.prefixes[place] for place in stays] + children,
            np.concatenate([blank_B[stays], np.full(len(children), NEVER)]),
            np.concatenate([label_B[stays], longer_BV[parents, symbols]]),
        )

    def added_at_end(self, prefix: _Prefix) -> float:
        """Return what all words of a prefix and the end of the sentence add."""
        if self._words is None:
            return 0.0
        added, history = self._complete(prefix)
        return added + self._words.weight * self._words.model.finish(history)

    def _scores(self, prefixes: list[_Prefix], same_B: np.ndarray, longer_BV: np.ndarray) -> np.ndarray:
        """Return the scores by which prefixes compete, of shape (B + B * V,): those that stay, then the longer ones."""
        added_B = np.array([prefix.added for prefix in prefixes])
        scores_BV = longer_BV + added_B[:, None]
        for symbol in self._word_ends if self._words else []:
            for place in np.flatnonzero(longer_BV[:, symbol] > NEVER):
                scores_BV[place, symbol] = longer_BV[place, symbol] + self._complete(prefixes[place])[0]
        return np.concatenate([same_B + added_B, scores_BV.ravel()])

    def _child(self, prefix: _Prefix, symbol: int) -> _Prefix:
        """Return the prefix with one more label. It is the same object each time."""
        if symbol not in prefix.children:
            if symbol in self._word_ends:
                prefix.children[symbol] = _Prefix(prefix, symbol, *self._complete(prefix), "")
            else:
                letters = prefix.letters + self._letters[symbol]
                prefix.children[symbol] = _Prefix(prefix, symbol, prefix.added, prefix.history, letters)
        return prefix.children[symbol]

    def _complete(self, prefix: _Prefix) -> tuple[float, Any]:
        """Return `added` and `history` after the word of `letters`, which ends here. They stay as they are if there are no letters."""
        if self._words is None or not prefix.letters:
            return prefix.added, prefix.history
        if prefix.completed is None:
            log10, history = self._words.model.extend(prefix.history, prefix.letters)
            prefix.completed = (prefix.added + self._words.weight * log10 + self._words.word_score, history)
        return prefix.completed


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the `count` largest scores above NEVER, in order of place. In a tie the first places are taken, so that the
    result is the same on every machine."""
    places = np.flatnonzero(scores > NEVER)
    if len(places) <= count:
        return places
    bound = np.partition(scores[places], len(places) - count)[len(places) - count]
    above, equal = places[scores[places] > bound], places[scores[places] == bound]
    return np.sort(np.concatenate([above, equal[: count - len(above)]]))


def _ids(prefix: _Prefix) -> tuple[int, ...]:
    backwards = []
    while prefix.parent is not None:
        backwards.append(prefix.last)
        prefix = prefix.parent
    return tuple(reversed(backwards))
