"""Counts and estimates in words."""

from recipes.study.wording import in_number, in_words, negative


def test_a_count_has_its_noun() -> None:
    assert [in_number(count, "run") for count in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"] and in_number(2, "axis", "axes") == "2 axes"


def test_an_estimate_has_its_interval_also_with_the_other_sign() -> None:
    value = {"value": 0.35, "low": 0.3, "high": 0.41234}
    assert in_words(value) == "0.35 (0.3 to 0.4123)" and in_words(negative(value)) == "-0.35 (-0.4123 to -0.3)"
