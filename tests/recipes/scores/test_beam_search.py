"""The search equals an enumeration of all alignments where its beam holds every prefix, with and without a language model."""

import itertools
import math
import time
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.scores.beam_search import Hypothesis, WordScoring, beam_search
from recipes.scores.ctc import greedy, text_of

ALPHABET = ("<pad>", "|", "a", "b", "<unk>")
WIDE = 10_000


class PairCounts:
    """A language model of pairs of words, whose histories are the words so far. `wanted`: words that are likely at any place."""

    def __init__(self, wanted: tuple[str, ...] = ()) -> None:
        self.wanted = wanted
        self.num_calls = 0

    def start(self) -> tuple[str, ...]:
        return ("<s>",)

    def extend(self, history: tuple[str, ...], word: str) -> tuple[float, tuple[str, ...]]:
        self.num_calls += 1
        return (-0.1 if word in self.wanted else -1.0 - len(word) * 0.3 - 0.2 * (history[-1] == word)), (*history, word)

    def finish(self, history: tuple[str, ...]) -> float:
        return -0.05 * len(history)

    def of_text(self, text: str, weight: float, word_score: float) -> float:
        """Return what the words of a whole text add."""
        history, added = self.start(), 0.0
        for word in text.split():
            log10, history = self.extend(history, word)
            added += weight * log10 + word_score
        return added + weight * self.finish(history)


def random_log_probs(num_frames: int, num_symbols: int, seed: int, scale: float = 2.0) -> np.ndarray:
    logits_SV = np.random.default_rng(seed).normal(size=(num_frames, num_symbols)) * scale
    return logits_SV - np.log(np.exp(logits_SV).sum(axis=1, keepdims=True))


def enumerated(log_probs_SV: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    """Return labels -> probability, as the sum over all alignments."""
    num_frames, num_symbols = log_probs_SV.shape
    sums: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(num_symbols), repeat=num_frames):
        sums[tuple(greedy(np.array(path, int), blank))] += math.exp(log_probs_SV[range(num_frames), path].sum())
    return sums


def of_probabilities(rows: list[list[float]]) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows))


INPUTS = {"num_frames": st.integers(0, 5), "num_symbols": st.integers(2, 4), "seed": st.integers(0, 10**6), "data": st.data()}


@settings(deadline=None)
@given(**INPUTS)
def test_with_a_wide_beam_every_hypothesis_has_the_sum_over_its_alignments(num_frames, num_symbols, seed, data) -> None:
    log_probs_SV = random_log_probs(num_frames, num_symbols, seed)
    blank = data.draw(st.integers(0, num_symbols - 1))
    found = beam_search(log_probs_SV, ALPHABET[:num_symbols], blank=blank, beam_size=WIDE)
    expected = enumerated(log_probs_SV, blank)
    assert {one.ids: pytest.approx(math.exp(one.score), rel=1e-9) for one in found} == expected and len(found) == len(expected)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


@settings(deadline=None, max_examples=50)
@given(num_frames=st.integers(0, 5), seed=st.integers(0, 10**6), weight=st.sampled_from([0, 2.0]), word_score=st.sampled_from([-1, 1]))
def test_with_a_wide_beam_a_language_model_adds_the_score_of_the_text(num_frames, seed, weight, word_score) -> None:
    log_probs_SV = random_log_probs(num_frames, len(ALPHABET), seed)
    model = PairCounts(wanted=("ab",))
    plain = {one.ids: one.score for one in beam_search(log_probs_SV, ALPHABET, blank=0, beam_size=WIDE)}
    found = beam_search(log_probs_SV, ALPHABET, blank=0, beam_size=WIDE, words=WordScoring(model, weight, word_score))
    assert {one.ids for one in found} == set(plain)
    expected = [plain[one.ids] + model.of_text(text_of(one.ids, ALPHABET), weight, word_score) for one in found]
    assert [one.score for one in found] == pytest.approx(expected, abs=1e-9)
    assert found == sorted(found, key=lambda one: one.score, reverse=True)


@settings(deadline=None)
@given(num_frames=st.integers(1, 8), seed=st.integers(0, 10**6), beam_size=st.integers(1, 20))
def test_a_narrow_beam_gives_lower_bounds_and_no_labels_twice(num_frames, seed, beam_size) -> None:
    log_probs_SV = random_log_probs(num_frames, 3, seed)
    exact = {one.ids: one.score for one in beam_search(log_probs_SV, ALPHABET[:3], blank=0, beam_size=WIDE)}
    found = beam_search(log_probs_SV, ALPHABET[:3], blank=0, beam_size=beam_size)
    assert 1 <= len(found) <= beam_size and len({one.ids for one in found}) == len(found)
    assert all(one.score <= exact[one.ids] + 1e-9 for one in found)


@settings(deadline=None)
@given(num_frames=st.integers(1, 30), seed=st.integers(0, 10**6), beam_size=st.integers(1, 8))
def test_where_one_symbol_of_each_frame_has_90_percent_a_beam_of_1_decodes_greedily(num_frames, seed, beam_size) -> None:
    rng = np.random.default_rng(seed)
    best_S = rng.integers(0, 5, num_frames)
    rest_SV = rng.dirichlet(np.ones(5), num_frames) * 0.1
    rest_SV[np.arange(num_frames), best_S] += 0.9
    assert list(beam_search(np.log(rest_SV), ALPHABET, blank=0, beam_size=1)[0].ids) == greedy(best_S, 0)


def test_sums_over_alignments_may_beat_the_best_alignment() -> None:
    """The textbook case: two frames with 60 % blank. The best alignment is empty (36 %), but three alignments make an a (64 %)."""
    log_probs_SV = of_probabilities([[0.6, 0.0, 0.4], [0.6, 0.0, 0.4]])
    assert greedy(log_probs_SV.argmax(axis=1), 0) == []
    first, second = beam_search(log_probs_SV, ALPHABET[:3], blank=0, beam_size=2)
    assert (first.ids, second.ids) == ((2,), ()) and math.exp(first.score) == pytest.approx(0.64)


def test_a_beam_of_1_may_differ_from_greedy_decoding() -> None:
    """After an a, blank (30 %) and a (30 %) are one prefix, which beats the b (40 %) that greedy decoding takes."""
    log_probs_SV = of_probabilities([[0.05, 0.0, 0.9, 0.05], [0.3, 0.0, 0.3, 0.4]])
    assert greedy(log_probs_SV.argmax(axis=1), 0) == [2, 3]
    assert beam_search(log_probs_SV, ALPHABET[:4], blank=0, beam_size=1)[0].ids == (2,)


def test_a_prefix_that_left_the_beam_and_comes_back_is_the_same_prefix() -> None:
    """If parents came back as new objects, 5 of these 60 searches would end with the same labels twice."""
    for seed in range(60):
        found = beam_search(random_log_probs(30, 3, seed, 4.0), ALPHABET[:3], blank=0, beam_size=10)
        assert len({one.ids for one in found}) == len(found), seed


def test_a_language_model_chooses_between_equally_probable_words() -> None:
    log_probs_SV = of_probabilities([[0.0, 0.0, 0.5, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5, 0.0]])
    for word in "ab":
        found = beam_search(log_probs_SV, ALPHABET, blank=0, beam_size=4, words=WordScoring(PairCounts((word,)), 2.0, 0.0))
        assert text_of(found[0].ids, ALPHABET) == f"{word} {word}"


def test_a_word_is_scored_when_it_is_complete_so_that_a_narrow_beam_keeps_it() -> None:
    """With a beam of 1 the model must be asked at the `|`: the acoustically second a| is kept only through its score."""
    log_probs_SV = of_probabilities([[0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.45, 0.0, 0.55, 0.0]])
    plain = beam_search(log_probs_SV, ALPHABET, blank=0, beam_size=1)
    scored = beam_search(log_probs_SV, ALPHABET, blank=0, beam_size=1, words=WordScoring(PairCounts(("a",)), 1.0, 1.0))
    assert (plain[0].ids, scored[0].ids) == ((2, 3), (2, 1))


@pytest.mark.parametrize(("word_score", "text"), [(2.0, "a b"), (-2.0, "ab")])
def test_the_word_score_decides_on_the_number_of_words(word_score: float, text: str) -> None:
    log_probs_SV = of_probabilities([[0.0, 0.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0]])
    found = beam_search(log_probs_SV, ALPHABET, blank=0, beam_size=4, words=WordScoring(PairCounts(), 0.0, word_score))
    assert text_of(found[0].ids, ALPHABET) == text


def test_repeated_spaces_and_special_symbols_are_no_words() -> None:
    model = PairCounts()
    log_probs_SV = of_probabilities([[0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0]])
    (found,) = beam_search(log_probs_SV, ALPHABET, blank=0, beam_size=4, words=WordScoring(model, 1.0, 0.0))
    assert found.ids == (1, 4, 1, 2, 4, 3) and found.score == pytest.approx(model.of_text("ab", 1.0, 0.0))


def test_no_frames_give_the_empty_hypothesis() -> None:
    assert beam_search(np.zeros((0, 5)), ALPHABET, blank=0, beam_size=3) == [Hypothesis((), 0.0)]


@pytest.mark.parametrize("frame", [[np.nan, 0, 0, 0, 0], [-np.inf] * 5])
def test_a_frame_without_probabilities_is_a_defect(frame: list[float]) -> None:
    with pytest.raises(AssertionError, match="without a possible symbol"):
        beam_search(np.array([frame]), ALPHABET, blank=0, beam_size=3)


def test_ten_seconds_of_speech_with_a_beam_of_50_take_less_than_3_seconds() -> None:
    """500 frames of 32 symbols at random, which is the slowest case, with a language model. Measured: 0.1 s."""
    alphabet = ("<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz'")
    model = PairCounts()
    begin = time.process_time()
    found = beam_search(random_log_probs(500, 32, 0, 1.0), alphabet, blank=0, beam_size=50, words=WordScoring(model, 2.0, -1.0))
    assert time.process_time() - begin < 3 and len(found) == 50
    assert model.num_calls < 500 * 50 + 50, "a word is asked for once, not in each frame"
