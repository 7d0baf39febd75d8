"""The baselines on made-up data: they learn what is there to learn, and the strength is chosen on validation data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.data.labelled_folder import LabelledRow, StoredSplit, save_split
from results.baselines import (
    BASELINES,
    STRENGTHS,
    Features,
    Splits,
    bayes,
    counts,
    logistic,
    ridge,
    scored,
    tfidf,
    tfidf_of_pairs,
)


def save_texts(folder: Path, texts: dict[str, list[tuple[str, str]]]) -> None:
    for split, rows in texts.items():
        save_split(folder, split, StoredSplit([LabelledRow(*row) for row in rows], {}))


@pytest.mark.parametrize(("make", "classifier"), [(counts, bayes), (tfidf, logistic)])
def test_words_decide(make: Any, classifier: Any, tmp_path: Path) -> None:
    rows = [(f"good film number {n}", "1") for n in range(8)] + [(f"bad film number {n}", "0") for n in range(8)]
    save_texts(tmp_path, {"train": rows, "valid": rows[::2], "test": [("a good one", "1"), ("so bad", "0")]})
    found = scored(make, classifier, tmp_path, "test")
    assert found["mean"] == 1.0 and found["validation"] == 1.0 and found["strength"] == STRENGTHS[0], "the weakest of equals"


def test_texts_of_a_pair_are_compared(tmp_path: Path) -> None:
    words = ["dog", "cat", "cow", "hen", "fox", "owl"]
    same = [(f"a {word} | a {word}", "same") for word in words]
    other = [(f"a {one} | a {two}", "other") for one, two in zip(words, words[1:] + words[:1], strict=True)]
    save_texts(tmp_path, {"train": same + other, "valid": same + other, "test": [("a cow | a cow", "same"), ("a fox | a dog", "other")]})
    assert scored(tfidf_of_pairs, logistic, tmp_path, "test")["mean"] == 1.0


def test_the_strength_with_the_best_validation_accuracy_is_tested(tmp_path: Path) -> None:
    """Noise in many features: a strong fit is worse on validation data than a weak one."""
    rng = np.random.default_rng(0)

    def part(number: int) -> Features:
        labels = rng.integers(0, 2, number)
        x_NC = rng.standard_normal((number, 40))
        x_NC[:, 0] += 3 * labels
        return Features(x_NC, [str(label) for label in labels])

    splits: Splits = {"train": part(60), "valid": part(200), "test": part(200)}

    def make(folder: Path, names: Sequence[str]) -> Splits:
        return {name: splits[name] for name in names}

    found = scored(make, ridge, tmp_path, "test")
    weakest = ridge(STRENGTHS[-1]).fit(splits["train"].x_NC, splits["train"].labels).score(splits["valid"].x_NC, splits["valid"].labels)
    assert found["validation"] >= weakest and found["mean"] > 0.6


def test_every_task_of_classes_has_a_baseline() -> None:
    assert {key[0] for key in BASELINES} == {"text", "speech", "vision"}
    assert ("speech", "ctc") not in BASELINES and all(BASELINES.values())
