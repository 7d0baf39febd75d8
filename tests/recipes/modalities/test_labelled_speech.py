"""Labelled recordings as the source of a run's data: checks, lines of the log, and values that follow from the data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.frontends.speech_config import SpeechFrontendConfig
from recipes.check import check_data, check_recipe
from recipes.errors import ConfigError
from recipes.modalities.labelled_speech import LabelledSpeechSource, inexact_padding
from recipes.modalities.registry import source_of
from recipes.settings import apply_overrides
from tests.recipes.data.labelled_recordings import labelled_recipe, write_data

REFUSED = {
    "frontend.conv_kernels=10": r"conv_kernels has 1 values, frontend\.conv_strides 2; one each",
    "frontend.pos_conv_groups=3": r"hidden_size 16 is not a multiple of frontend\.pos_conv_groups 3",
    "data.max_seconds=0.001": r"data\.max_seconds 0\.001 at data\.sample_rate 16000 is less than one frame of 20 samples",
    "data.channel_mask_length=64": r"channel_mask_length 64 is more than model\.hidden_size 16; use --set data\.channel_mask_length=1",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_settings_that_contradict_each_other_are_refused(setting: str) -> None:
    recipe = labelled_recipe(Path("x"))
    check_recipe(recipe)
    with pytest.raises(ConfigError, match=REFUSED[setting]):
        check_recipe(apply_overrides(recipe, [setting]))


def test_a_recipe_of_labelled_recordings_has_this_source() -> None:
    assert isinstance(source_of(labelled_recipe(Path("x"))), LabelledSpeechSource)


def test_a_dry_run_says_what_is_read_and_accepts_a_prepared_folder(tmp_path: Path) -> None:
    recipe = labelled_recipe(write_data(tmp_path / "data"))
    assert check_data(recipe).startswith("train: 1 file (1 .parquet) of train")
    prepared = LabelledSpeechSource().prepare(recipe, tmp_path / "prepared", num_processes=1, progress=False)
    assert check_data(replace(recipe, data=replace(recipe.data, path=str(prepared)))) == ""  # type: ignore[call-arg]
    with pytest.raises(ConfigError):
        check_data(replace(recipe, data=replace(recipe.data, path=str(prepared), max_seconds=2.0)))  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="no column 'said' of labels in split train, there are audio, label, text; --set"):
        check_data(apply_overrides(recipe, ["data.label_column=said"]))


def test_a_prepared_folder_is_used_again_also_with_other_masks(tmp_path: Path) -> None:
    recipe = labelled_recipe(write_data(tmp_path / "data"))
    lines: list[str] = []
    for settings in ([], ["data.time_mask_prob=0.1", "data.channel_mask_prob=0.4", "data.num_workers=3"]):
        changed = apply_overrides(recipe, settings)
        assert LabelledSpeechSource().prepare(changed, tmp_path / "prepared", log=lines.append, num_processes=1) == tmp_path / "prepared"
    assert sum(line.startswith("prepared labelled samples: 18 train, 6 valid, 6 test") for line in lines) == 1


def test_the_alphabet_and_the_number_of_updates_follow_from_the_data(tmp_path: Path) -> None:
    recipe = apply_overrides(labelled_recipe(write_data(tmp_path / "data")), ["finetune.epochs=10"])
    values: Any = LabelledSpeechSource().values(recipe, LabelledSpeechSource().prepare(recipe, tmp_path / "prepared", num_processes=1))
    assert values["objective.alphabet"][-6:] == tuple("ghilow")
    steps = {name: values[f"{name}_steps"] for name in ("run.max", "optim.schedule", "optim.warmup", "optim.decay")}
    assert steps == {"run.max": 20, "optim.schedule": 20, "optim.warmup": 2, "optim.decay": 10}, "2 full batches of 8 in 18 samples"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "exact_padding is false, so a few frames next to padding differ"),
        ({"exact_padding": True}, ""),
        ({"pos_conv_depth": 1}, ""),
        ({"exact_padding": True, "extractor_norm": "group"}, "exact_statistics is false"),
        ({"exact_padding": True, "extractor_norm": "group", "exact_statistics": True}, ""),
    ],
)
def test_the_log_says_where_padding_is_not_exact(settings: dict[str, Any], said: str) -> None:
    found = inexact_padding(SpeechFrontendConfig(**settings))
    assert said in found and bool(said) == bool(found)


def test_a_start_says_it_once(tmp_path: Path) -> None:
    recipe = labelled_recipe(write_data(tmp_path / "data"))
    lines: list[str] = []
    inexact = apply_overrides(recipe, ["frontend.exact_padding=false"])
    LabelledSpeechSource().prepare(inexact, tmp_path / "a", log=lines.append, num_processes=1)
    assert sum("padding is not exact" in line for line in lines) == 1
    LabelledSpeechSource().prepare(recipe, tmp_path / "b", log=lines.append, num_processes=1)
    assert sum("padding is not exact" in line for line in lines) == 1
