"""Class names of labels: a class has one name in every type of column, and an empty cell has none."""

import math

import pytest

from recipes.data.labels import class_name, is_missing
from recipes.errors import ConfigError


@pytest.mark.parametrize("value", [None, math.nan, "", "  ", -1, -1.0, "-1", "-1.0"])
def test_missing_empty_and_minus_one_are_none(value: object) -> None:
    assert class_name(value) is None


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (0, "0"),
        (0.0, "0"),
        ("0", "0"),
        ("1.0", "1"),
        (" 1. ", "1"),
        (1.5, "1.5"),
        (True, "True"),
        ("None", "None"),
        ("nan", "nan"),
        ("a.0", "a.0"),
    ],
)
def test_a_class_has_the_same_name_as_a_number_and_as_text(value: object, name: str) -> None:
    assert class_name(value) == name


def test_numbered_classes_are_read_by_their_names_and_minus_one_is_none() -> None:
    names = ["-1", "cat"]
    assert [class_name(value, names) for value in (0, 1, -1, None)] == ["-1", "cat", None, None]
    assert class_name(7, names) == "7", "a number without a name"


@pytest.mark.parametrize("value", [[1, 2], [], {"a": 1}])
def test_more_than_one_label_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="a probe needs one class for each example; --label-column NAME"):
        class_name(value)


def test_only_empty_cells_are_missing() -> None:
    assert all(map(is_missing, (None, math.nan, "", " \n"))) and not any(map(is_missing, (0, False, "0", "NA", "null")))
