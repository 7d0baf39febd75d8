"""Settings that follow from prepared labelled data: classes, and epochs as numbers of updates."""

from pathlib import Path
from typing import Any

import pytest

from recipes.check import check_optim, check_recipe
from recipes.data.labelled_folder import LabelledInfo, StoredSplit, finish_folder, save_split
from recipes.errors import ConfigError
from recipes.modalities.labelled import values_of_labelled
from recipes.settings import check_bounds, with_values
from tests.recipes.data.labelled_texts import recipe_of


def values(folder: Path, *settings: str, samples: int = 1000) -> dict[str, Any]:
    for split in ("train", "valid"):
        save_split(folder, split, StoredSplit([], {}))
    finish_folder(folder, LabelledInfo("labelled_text", "data", {}, "", {"train": samples, "valid": 9}, {"objective.labels": ["b", "a"]}))
    return values_of_labelled(recipe_of("words", *settings), folder)


def test_epochs_are_numbers_of_updates(tmp_path: Path) -> None:
    """125 updates of 8 samples are an epoch."""
    assert values(tmp_path, "finetune.epochs=4") == {
        "objective.labels": ("b", "a"),
        **{"run.max_steps": 500, "optim.schedule_steps": 500, "optim.warmup_steps": 30, "optim.decay_steps": 0},
        **{"run.eval_steps": 125, "run.save_steps": 125, "run.log_steps": 25},
    }


def test_with_a_number_of_updates_the_schedule_follows_from_it(tmp_path: Path) -> None:
    found = values(tmp_path, "finetune.epochs=0", "run.max_steps=200", "optim.warmup_steps=3")
    assert found["objective.labels"] == ("b", "a") and found["optim.schedule_steps"] == 200
    assert not {"run.max_steps", "optim.warmup_steps"} & found.keys()


def test_neither_epochs_nor_updates_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^finetune\.epochs is 0, and run\.max_steps is not set; --set run\.max_steps=N"):
        check_recipe(recipe_of("words", "finetune.epochs=0"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("finetune.evals_per_epoch=2",), {"run.eval_steps": 62, "run.save_steps": 62}),
        (("finetune.evals_per_epoch=0",), {"run.eval_steps": 1250}),
        (("finetune.evals_per_epoch=0.1",), {"run.eval_steps": 1250}),
        (("finetune.epochs=0.5",), {"run.max_steps": 63, "run.eval_steps": 63, "run.log_steps": 3}),
        (("optim.schedule=tri_stage", "finetune.warmup_share=0.1"), {"optim.warmup_steps": 125, "optim.decay_steps": 625}),
    ],
)
def test_shares_and_intervals_follow_from_the_settings(tmp_path: Path, settings: tuple[str, ...], expected: dict[str, int]) -> None:
    assert expected.items() <= values(tmp_path, *settings).items()


def test_intervals_that_are_set_stay(tmp_path: Path) -> None:
    found = values(tmp_path, "run.log_steps=7", "run.eval_steps=9")
    assert not {"run.log_steps", "run.eval_steps"} & found.keys() and found["run.save_steps"] == 125


@pytest.mark.parametrize("setting", ["run.max_steps=5", "optim.schedule_steps=2000000", "optim.warmup_steps=0"])
def test_a_length_in_epochs_and_in_updates_is_refused(setting: str) -> None:
    name = setting.partition("=")[0]
    with pytest.raises(ConfigError, match=f"^{name} is set, and finetune.epochs 10 determines it; --set finetune.epochs=0 counts updates"):
        check_recipe(recipe_of("words", "finetune.epochs=10", setting))


@pytest.mark.parametrize("samples", [8, 15, 100, 999])
@pytest.mark.parametrize("epochs", ["0.001", "1", "3.7"])
def test_the_recipe_with_these_settings_passes_the_checks(tmp_path: Path, samples: int, epochs: str) -> None:
    found = values(tmp_path, f"finetune.epochs={epochs}", samples=samples)
    recipe = with_values(recipe_of("words"), found)
    check_optim(recipe)
    check_bounds(recipe)
    assert found["run.max_steps"] >= 1 <= found["run.log_steps"] <= found["run.eval_steps"] <= found["run.max_steps"]
