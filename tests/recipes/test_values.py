"""Types and ranges of single values, and names of files and folders. Whole assignments are in test_settings.py."""

from argparse import ArgumentTypeError
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from model.bounds import SHARE, Place, at_least
from recipes.check import check_recipe, resolve_recipe
from recipes.errors import ConfigError
from recipes.text import RECIPES, text_tiny
from recipes.values import (
    complaint_about,
    expand_home,
    last_part,
    name_argument,
    path_argument,
    value_of_json,
    value_of_text,
    without_folder,
)


@pytest.mark.parametrize(
    ("value", "hint", "notes", "said"),
    [
        (1, int, (at_least(1),), None),
        (0, int, (at_least(1),), "must be at least 1"),
        (1e5, int, (at_least(1),), "must be an integer"),
        (True, int, (), "must be an integer"),
        ("1e-3", float, (), "must be a finite number"),
        (float("nan"), float, (SHARE,), "must be a finite number"),
        (float("inf"), float, (), "must be a finite number"),
        (10**400, float, (SHARE,), "must be a finite number"),
        (10**400, int, (SHARE,), "must lie between 0 and 1"),
        (1, float, (SHARE,), None),
        (None, float | None, (SHARE,), None),
        (2.0, float | None, (SHARE,), "must lie between 0 and 1"),
        ((0.5, 2.0), tuple[float, float], (SHARE,), "must lie between 0 and 1"),
        ((0.5, 0.6, 0.7), tuple[float, float], (SHARE,), "must be a tuple in which each is a finite number"),
        ((), tuple[int, ...], (at_least(1),), None),
        ("x", Literal["a", "b"], (), "must be one of a, b"),
        (3, str | None, (), "must be a text or None"),
    ],
)
def test_a_value_of_another_type_or_outside_of_its_range_is_reported(value: Any, hint: Any, notes: tuple, said: str | None) -> None:
    assert complaint_about(value, hint, notes) == said


def test_the_types_of_a_users_own_recipe_are_checked_too() -> None:
    tiny = text_tiny()
    steps: Any = 1e3
    with pytest.raises(ConfigError, match=r"^run\.max_steps is 1000\.0; it must be an integer$"):
        check_recipe(replace(tiny, run=replace(tiny.run, max_steps=steps)))
    check_recipe(replace(tiny, optim=replace(tiny.optim, lr=1)))


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_value_is_refused_except_for_a_list(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--set data\.path=: the value is empty"):
        value_of_text("data.path", text.strip(), str | None)
    with pytest.raises(ArgumentTypeError, match="is empty"):
        path_argument(text)
    assert value_of_text("teacher.layer_norms", text, tuple[Literal["layer"], ...]) == ()


def test_json_values_need_the_right_type_and_whole_numbers_are_valid_floats() -> None:
    assert value_of_json([1, 2], tuple[float, float]) == (1.0, 2.0)
    with pytest.raises(TypeError, match="a"):
        value_of_json([1, "a"], tuple[float, float])


def test_home_is_expanded_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert (path_argument("~/run"), name_argument("~/data"), path_argument("a~/b")) == (Path("/home/me/run"), "/home/me/data", Path("a~/b"))
    assert path_argument("~no_such_user/run") == Path("~no_such_user/run")
    assert (expand_home("~/x", (Place(),)), expand_home("~/x", ()), expand_home(None, (Place(),))) == ("/home/me/x", "~/x", None)
    settings = ["data.path=~/books", "data.tokenizer=~/t.model", "data.text_column=~/no"]
    data = resolve_recipe("text_tiny", RECIPES, settings, None).data
    assert (data.path, data.tokenizer, data.text_column) == ("/home/me/books", "/home/me/t.model", "~/no")  # type: ignore[attr-defined]
    assert resolve_recipe("text_tiny", RECIPES, settings, "~/others").data.path == "/home/me/others"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/data/books/", "books"),
        ("data.path=/data/books", "data.path=books"),
        ("launch/x.py", "launch/x.py"),
        ("a", "a"),
        ("a=b/c", "a=b/c"),
    ],
)
def test_of_an_absolute_path_the_last_part_is_kept(text: str, kept: str) -> None:
    assert last_part(text) == kept


def test_only_paths_lose_their_folders() -> None:
    """A label or a letter of an alphabet may be `/` or begin with it."""
    assert (without_folder("/a/b", (Place(),)), without_folder("/a/b", ()), without_folder(None, (Place(),))) == ("b", "/a/b", None)
