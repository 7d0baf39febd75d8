"""Label columns as targets: classes, numbers and transcripts, and what cannot be learned."""

import math
from typing import Any

import pytest

from recipes.data.targets import NumberTargets, named, targets_of
from recipes.errors import ConfigError
from recipes.supervised_config import SPECIAL_LETTERS, ClassifyConfig, CtcConfig, RegressConfig


def fitted(config: Any, labels: list[Any]) -> tuple[Any, dict[str, Any]]:
    """(targets, settings) of training labels."""
    targets = targets_of(config)
    return targets, dict(targets.fit(labels))


def test_classes_are_sorted_numbers_by_value_before_names() -> None:
    targets, found = fitted(ClassifyConfig(), ["b", "10", "9", "a", "b"])
    assert found == {"objective.labels": ("9", "10", "a", "b")}
    assert [targets.encode(label, []) for label in ("9", "b")] == [0, 3]


def test_given_classes_keep_their_order_and_may_be_more_than_the_data_have() -> None:
    targets, found = fitted(ClassifyConfig(labels=("z", "a", "m")), ["a", "z"])
    assert found == {"objective.labels": ("z", "a", "m")} and targets.encode("a", []) == 1


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    import numpy as np
    from sklearn.utils.class_weight import compute_class_weight

    labels = ["a"] * 5 + ["b"] * 2 + ["c"]
    _, found = fitted(ClassifyConfig(balanced=True), labels)
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=np.array(labels))
    assert found["objective.class_weights"] == pytest.approx(expected.tolist())


def test_balanced_and_given_weights_are_refused_together() -> None:
    with pytest.raises(ConfigError, match=r"objective\.balanced computes objective\.class_weights, which are given; leave one of the two"):
        fitted(ClassifyConfig(balanced=True, class_weights=(1.0, 2.0)), ["a", "b"])


def test_a_given_class_without_samples_has_balanced_weight_0() -> None:
    _, found = fitted(ClassifyConfig(balanced=True, labels=("a", "b", "never")), ["a", "b"])
    assert found["objective.class_weights"] == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("config", "labels", "complaint"),
    [
        (ClassifyConfig(), ["a", "a"], "all 2 training samples are of one class, 'a'; give data with two or more"),
        (
            ClassifyConfig(labels=("a", "b")),
            ["a", "c", "c", "b"],
            "class 'c' of 2 training samples is not in objective.labels, which has 2 classes; the data have 3",
        ),
        (
            ClassifyConfig(class_weights=(1.0, 2.0, 3.0)),
            ["a", "b"],
            "objective.class_weights has 3 values for 2 classes; one each",
        ),
        (RegressConfig(), [2.5, 2.5], "all 2 training samples have the number 2.5; give data with different ones"),
    ],
)
def test_labels_that_teach_nothing_are_refused(config: Any, labels: list[Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fitted(config, labels)
    assert str(caught.value) == complaint


def test_an_unknown_class_is_collected_and_then_refused() -> None:
    targets, _ = fitted(ClassifyConfig(), ["a", "b"])
    unknown: list[str] = []
    assert [targets.encode(label, unknown) for label in ("c", "a", "c")] == [-1, 0, -1] and unknown == ["c", "c"]
    with pytest.raises(ConfigError, match="split x has 'c'; remove these samples, or train on data that have them"):
        targets.complain("split x has 'c'")


@pytest.mark.parametrize(("cell", "number"), [("2.5", 2.5), (3, 3.0), (" 1e-3 ", 0.001), (None, None), (" ", None), ("", None)])
def test_a_number_is_parsed_and_an_empty_cell_has_none(cell: Any, number: float | None) -> None:
    assert NumberTargets(RegressConfig()).parse(cell, None) == number


@pytest.mark.parametrize(
    ("cell", "complaint"),
    [
        ("good", "'good' is no number; regression needs one, --task classify takes classes"),
        ([1], r"\[1\] is no number"),
        (math.nan, "nan is no number to learn; remove the row or leave its cell empty"),
        ("NaN", "nan is no number to learn"),
        ("-inf", "-inf is no number to learn"),
    ],
)
def test_what_is_no_finite_number_is_refused(cell: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        NumberTargets(RegressConfig()).parse(cell, None)


def test_the_alphabet_is_the_special_letters_and_those_of_the_transcripts() -> None:
    targets, found = fitted(CtcConfig(), ["to be", "or"])
    assert found["objective.alphabet"] == (*SPECIAL_LETTERS, "b", "e", "o", "r", "t")
    assert targets.encode("o be", []) == [7, 4, 5, 6]


def test_a_letter_outside_of_the_alphabet_is_unk_and_named() -> None:
    targets, found = fitted(CtcConfig(alphabet=(*SPECIAL_LETTERS, "a")), ["ab"])
    unknown: list[str] = []
    assert found["objective.alphabet"] == (*SPECIAL_LETTERS, "a")
    assert targets.encode("ab", unknown) == [5, 3] and unknown == ["b"]
    assert targets.complain("split x has letters") == "split x has letters; each is read as <unk>"


def test_a_transcript_has_single_blanks_between_words() -> None:
    targets = targets_of(CtcConfig())
    assert targets.parse("  to \n be ", None) == "to be" and targets.parse("  ", None) is None and targets.parse(7, None) == "7"


def test_the_most_frequent_unknown_labels_are_named() -> None:
    assert named(["a", "b", "b"]) == "'b' (2 times), 'a' (1 times)"
    assert named(list("abcdef")).endswith("'e' (1 times), ...")
