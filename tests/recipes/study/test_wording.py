"""Counts and estimates in words."""

from recipes.study.wording import in_number, in_percent, in_words, negative, within


def test_a_count_has_its_noun() -> None:
    assert [in_number(count, "run") for count in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"] and in_number(2, "axis", "axes") == "2 axes"


def test_an_estimate_has_its_interval_also_with_the_other_sign() -> None:
    value = {"value": 0.35, "low": 0.3, "high": 0.41234}
    assert in_words(value) == "0.35 (0.3 to 0.4123)" and in_words(negative(value)) == "-0.35 (-0.4123 to -0.3)"


def test_a_share_is_whole_percent() -> None:
    assert [in_percent(share) for share in (0.0, 0.9, 0.756, 1.2)] == ["0 %", "90 %", "76 %", "120 %"]


def test_a_value_outside_of_the_grid_has_its_side() -> None:
    assert [within(value, 10.0, 1e6) for value in (9.0, 10.0, 1e6, 2e6, None)] == ["below 10", "10", "1e+06", "above 1e+06", "above 1e+06"]
