"""The prepare command: what it hands to the preparation and what it tells the user to type next."""

from pathlib import Path
from typing import Any

import pytest

from recipes.data import command
from recipes.data.command import PREPARERS, build_parser, run_prepare
from recipes.errors import ConfigError
from recipes.text import text_base, text_tiny


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What prepare_text was called with, instead of preparing."""
    asked: dict[str, Any] = {}

    def prepare_text(data: object, frontend: object, out: Path, **options: object) -> Path:
        asked.update(options, data=data, frontend=frontend, out=out)
        return out

    monkeypatch.setattr(command, "prepare_text", prepare_text)
    return asked


def prepare(*args: str) -> int:
    return run_prepare(build_parser("").parse_args(list(args)))


def test_the_recipes_numbers_and_the_users_reach_the_preparation(asked: dict[str, Any], capsys: pytest.CaptureFixture) -> None:
    assert prepare("text", "--recipe", "text_base", "--data", "d", "--out", "o", "--set", "frontend.vocab_size=99", "--processes", "3") == 0
    assert (asked["data"].sequence_length, asked["data"].break_mode) == (512, text_base().data.break_mode)
    assert (asked["data"].path, asked["frontend"].vocab_size, asked["out"], asked["num_processes"]) == ("d", 99, Path("o"), 3)
    said = "next: deepspeed launch/pretrain_text.py --recipe text_base --data o --set frontend.vocab_size=99\n"
    assert capsys.readouterr().out == said


def test_the_default_is_the_tiny_recipe_on_the_shipped_sample(asked: dict[str, Any]) -> None:
    prepare("text", "--out", "o")
    assert (asked["data"], asked["frontend"], asked["num_processes"]) == (text_tiny().data, text_tiny().frontend, None)


def test_every_modality_has_its_default_recipe() -> None:
    assert all(default in recipes and recipes[default]().modality == modality for modality, (recipes, default) in PREPARERS.items())


@pytest.mark.parametrize(
    ("args", "complaint"), [(["--recipe", "x"], "--recipe x: unknown"), (["--set", "mask.prob=0"], r"mask\.prob is 0")]
)
def test_what_the_launcher_would_refuse_is_refused_before_hours_of_preparing(
    asked: dict[str, Any], args: list[str], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        prepare("text", "--out", "o", *args)
    assert not asked
