"""Samples and the held-out split: which tokens are covered, which borders samples respect, and how much is held out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.data.packing import STRETCH_TOKENS, Boundaries, build_samples
from recipes.errors import ConfigError

LENGTH = 9
"""Tokens of a sample without `<s>`."""


def bounds_of(documents: list[list[int]]) -> Boundaries:
    """Return the boundaries for these paragraph lengths of each document."""
    paragraph_ends = np.cumsum([length for document in documents for length in document])
    return Boundaries(paragraph_ends, np.cumsum([sum(document) for document in documents]))


def build(bounds: Boundaries, break_mode: str, heldout_fraction: float = 0.0) -> dict[str, np.ndarray]:
    return build_samples(bounds, sequence_length=LENGTH + 1, break_mode=break_mode, heldout_fraction=heldout_fraction)  # type: ignore[return-value]


def covered(samples_N2: np.ndarray) -> list[int]:
    return [position for start, length in samples_N2.tolist() for position in range(start, start + length)]


corpora = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(corpora)
def test_complete_doc_covers_every_token_once_in_order_within_documents(documents: list[list[int]]) -> None:
    bounds = bounds_of(documents)
    samples_N2 = build(bounds, "complete_doc")["train"]
    assert covered(samples_N2) == list(range(bounds.num_tokens))
    for start, length in samples_N2.tolist():
        first, last = np.searchsorted(bounds.document_ends, (start, start + length - 1), side="right")
        assert first == last and 1 <= length <= LENGTH


@settings(max_examples=150, deadline=None)
@given(corpora)
def test_complete_doc_cuts_only_paragraphs_that_are_too_long_and_fills_every_sample(documents: list[list[int]]) -> None:
    bounds = bounds_of(documents)
    paragraphs = {0, *bounds.paragraph_ends.tolist()}
    samples = build(bounds, "complete_doc")["train"].tolist()
    for (start, length), (_, next_length) in zip(samples, [*samples[1:], (0, 0)], strict=True):
        stop = start + length
        if stop not in paragraphs:
            assert length == LENGTH
            assert not paragraphs & set(range(start + 1, stop))  # no whole paragraph would have fitted
        elif stop not in bounds.document_ends:
            following = min(end for end in paragraphs if end > stop) - stop
            assert length + following > LENGTH
            assert next_length


@settings(max_examples=100, deadline=None)
@given(corpora)
def test_break_mode_none_covers_the_stream_once_in_order_except_for_the_tail(documents: list[list[int]]) -> None:
    bounds = bounds_of(documents)
    num_whole = bounds.num_tokens // LENGTH
    if not num_whole:
        with pytest.raises(ConfigError, match="too short"):
            build(bounds, "none")
        return
    samples_N2 = build(bounds, "none")["train"]
    assert set(samples_N2[:, 1].tolist()) == {LENGTH}
    assert covered(samples_N2) == list(range(num_whole * LENGTH))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(1, 30), min_size=5, max_size=30), min_size=3, max_size=12), st.sampled_from(["none", "complete_doc"]))
def test_no_token_is_in_both_splits_and_both_have_samples(documents: list[list[int]], break_mode: str) -> None:
    bounds = bounds_of(documents)
    try:
        samples = build(bounds, break_mode, 0.2)
    except ConfigError as error:
        assert bounds.num_tokens < 1000, error
        return
    assert len(samples["train"]) and len(samples["valid"])
    both = covered(samples["train"]) + covered(samples["valid"])
    assert len(both) == len(set(both))
    if break_mode == "complete_doc":
        assert sorted(both) == list(range(bounds.num_tokens))


@pytest.mark.parametrize("fraction", [0.01, 0.02, 0.1])
@pytest.mark.parametrize("documents", [[[40] * 25_000] * 4, [[20] * 20] * 10_000], ids=["4 novels", "10000 articles"])
def test_the_held_out_share_is_the_requested_one(documents: list[list[int]], fraction: float) -> None:
    bounds = bounds_of(documents)
    samples = build(bounds, "complete_doc", fraction)
    share = samples["valid"][:, 1].sum() / bounds.num_tokens
    assert fraction <= share <= fraction + STRETCH_TOKENS / bounds.num_tokens


def test_the_held_out_text_is_spread_over_the_corpus_and_always_the_same() -> None:
    bounds = bounds_of([[20] * 20] * 10_000)
    starts_N, again_N = (build(bounds, "none", 0.1)["valid"][:, 0] for _ in range(2))
    np.testing.assert_array_equal(starts_N, again_N)
    thirds = np.bincount(3 * starts_N // bounds.num_tokens, minlength=3) / len(starts_N)
    assert thirds.min() > 0.1


def test_a_short_document_is_completely_in_one_split() -> None:
    bounds = bounds_of([[20] * 20] * 2_000)
    samples = build(bounds, "complete_doc", 0.05)
    document_of = {split: set(np.searchsorted(bounds.document_ends, rows[:, 0], side="right").tolist()) for split, rows in samples.items()}
    assert not document_of["train"] & document_of["valid"]


def test_one_short_text_still_gives_both_splits() -> None:
    samples = build(bounds_of([[7] * 20]), "none", 0.02)
    assert len(samples["valid"]) >= 1 and len(samples["train"]) >= 10


def test_no_held_out_share_means_no_held_out_samples() -> None:
    assert build(bounds_of([[7] * 20]), "none", 0.0)["valid"].shape == (0, 2)


def test_the_error_about_a_text_shorter_than_one_sample_has_its_length() -> None:
    with pytest.raises(ConfigError, match=r"too short: 4 tokens give no train sample of 10 .*--set data\.heldout_fraction=0"):
        build(bounds_of([[4]]), "none", 0.01)
    with pytest.raises(ConfigError, match="give no valid sample"):
        build(bounds_of([[4]]), "complete_doc", 0.01)
