"""The prepare command: the arguments it passes to the preparation, and the next command that it prints."""

from pathlib import Path
from typing import Any

import pytest

from recipes.catalog import RECIPES, default_recipe
from recipes.errors import ConfigError
from recipes.train.prepare import build_parser, run_prepare
from tests.launching import PREPARE, ROOT, launch, refused
from tests.made_up import write_pictures


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace the preparations of all modalities; return the arguments of the call."""
    asked: dict[str, Any] = {}

    def preparing(module: str, name: str, *sections: str) -> None:
        def prepare(*args: object, **options: object) -> Path:
            *values, out = args
            asked.update(options, **dict(zip(sections, values, strict=True)), out=out, prepares=name)
            assert isinstance(out, Path)
            return out

        monkeypatch.setattr(f"recipes.data.{module}.prepare_{name}", prepare)

    preparing("prepare", "text", "data", "frontend")
    preparing("speech_folder", "speech", "data", "frontend")
    preparing("vision_folder", "vision", "data")
    return asked


def prepare(*args: str) -> int:
    return run_prepare(build_parser("").parse_args(list(args)))


def test_the_recipes_numbers_and_the_users_reach_the_preparation(asked: dict[str, Any], capsys: pytest.CaptureFixture) -> None:
    assert prepare("text", "--recipe", "text_base", "--data", "d", "--out", "o", "--set", "frontend.vocab_size=99", "--processes", "3") == 0
    assert (asked["data"].sequence_length, asked["data"].break_mode) == (512, "complete_doc")
    assert (asked["data"].path, asked["frontend"].vocab_size, asked["out"], asked["num_processes"]) == ("d", 99, Path("o"), 3)
    said = "next: deepspeed launch/pretrain_text.py --recipe text_base --data o --set frontend.vocab_size=99\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("name", RECIPES)
def test_the_default_is_the_tiny_recipe_of_its_modality_on_the_shipped_sample(
    asked: dict[str, Any], capsys: pytest.CaptureFixture, name: str
) -> None:
    prepare(name, "--out", "o")
    tiny = RECIPES[name][f"{name}_tiny"]()
    assert (asked["prepares"], asked["data"], asked.get("frontend", tiny.frontend)) == (name, tiny.data, tiny.frontend)
    assert asked["num_processes"] is None and asked["progress"]
    assert capsys.readouterr().out == f"next: deepspeed launch/pretrain_{name}.py --recipe {name}_tiny --data o\n"


@pytest.mark.parametrize("text", ["-1", "0", "two", "1.5"])
def test_fewer_processes_than_one_are_refused(asked: dict[str, Any], capsys: pytest.CaptureFixture, text: str) -> None:
    """With -1 no process would start, and the preparation would wait for its results without end."""
    with pytest.raises(SystemExit) as ended:
        prepare("text", "--out", "o", f"--processes={text}")
    assert ended.value.code == 2 and not asked
    assert f"argument --processes: {text!r} must be a whole number of at least 1" in capsys.readouterr().err


def test_every_modality_has_its_default_recipe() -> None:
    assert all(default_recipe(name) in recipes for name, recipes in RECIPES.items())


@pytest.mark.parametrize(
    ("args", "complaint"), [(["--recipe", "x"], "--recipe x: unknown"), (["--set", "mask.prob=0"], r"mask\.prob is 0")]
)
def test_settings_that_training_would_refuse_are_refused_before_the_preparation(
    asked: dict[str, Any], args: list[str], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        prepare("text", "--out", "o", *args)
    assert not asked


def test_a_recipe_of_another_modality_is_refused(tmp_path: Path) -> None:
    """In a process of its own, since the file adds its modality to the table."""
    own = f"{ROOT / 'tests' / 'toys' / 'toy_numbers.py'}:numbers_tiny"
    refused(launch(PREPARE, ["text", "--recipe", own, "--out", "out"], tmp_path), "numbers_tiny is of modality numbers, not text")


def test_a_folder_that_was_prepared_before_is_reported_as_such(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    for number in range(2):
        assert prepare("vision", "--data", str(write_pictures(tmp_path / "raw")), "--out", str(out)) == 0
        assert (f"{out} is prepared already, from these data and settings\n" in capsys.readouterr().out) == (number == 1)
    assert prepare("vision", "--data", str(out), "--out", str(tmp_path / "other")) == 0
    assert f"{out} is prepared already" in capsys.readouterr().out
