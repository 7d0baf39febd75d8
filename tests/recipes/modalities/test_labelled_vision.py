"""Labelled images as the source of a run's data: checks before anything is prepared, and equal updates on any number of ranks."""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.check import check_recipe
from recipes.config import Recipe
from recipes.ds_config import load_ds_config, resolve
from recipes.errors import ConfigError
from recipes.finetune.vision_tasks import VISION_TASKS, vision_recipe
from recipes.modalities.labelled_vision import LabelledVisionSource
from recipes.modalities.registry import source_of
from recipes.settings import apply_overrides
from recipes.supervised_config import RegressConfig
from tests.distributed import run_distributed
from tests.launching import ROOT, tiny_recipe
from tests.recipes.finetune.pictures import write_images

STEPS = 5
MIXED = ("data.mixup_alpha=0.8", "data.cutmix_alpha=1")
SMALL = ("run.global_batch_size=8", "data.num_workers=0", "model.num_layers=2", "model.block.drop_path=0")
ALWAYS = (
    *SMALL,
    f"run.max_steps={STEPS}",
    f"optim.schedule_steps={STEPS}",
    "run.log_steps=1",
    "finetune.epochs=0",
    "optim.warmup_steps=2",
    "run.eval_steps=5",
)


def recipe_of(data: Path, *settings: str) -> Recipe:
    """Return the recipe of a classification by a network of 16 channels, with settings."""
    recipe = vision_recipe("classify", VISION_TASKS["classify"], tiny_recipe("vision"))
    return apply_overrides(recipe, [f"data.path={data}", *ALWAYS, *settings])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of two classes."""
    return write_images(tmp_path_factory.mktemp("source") / "images", 40)


@pytest.fixture(scope="module")
def prepared(images: Path) -> Path:
    """The images, prepared."""
    return LabelledVisionSource().prepare(recipe_of(images), images.parent / "prepared", num_processes=1)


def run_rank(run_dir: Path, prepared: Path, changes: Mapping[str, Any], settings: tuple[str, ...], world_size: int) -> None:
    """Run one rank. `changes` are merged into zero3_cpu.json."""
    from recipes.train import loop

    recipe = recipe_of(prepared, *settings)
    check_recipe(recipe)
    config = resolve(recipe, load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json") | dict(changes), "test", world_size)
    assert loop.run(recipe, config, run_dir, {}) == 0


def train(run_dir: Path, prepared: Path, changes: Mapping[str, Any], *settings: str, world_size: int = 1) -> list[dict[str, Any]]:
    """Return metrics.jsonl of a run on `world_size` processes."""
    run_distributed(run_rank, world_size, run_dir, prepared, changes, settings, world_size, timeout=120)
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def one_rank(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Five updates of mixed images on one rank, in one micro-batch, without dropout."""
    return train(tmp_path_factory.mktemp("one") / "run", prepared, {}, *MIXED)


@pytest.mark.parametrize(
    ("topology", "tables"),
    [
        ("dp2", "shared"),
        pytest.param("accumulation4", "shared", marks=pytest.mark.slow),
        pytest.param("dp2", "per_layer", marks=pytest.mark.slow),
    ],
)
def test_ranks_and_accumulation_agree_to_1e_5_for_5_steps_with_mixed_images(
    prepared: Path, one_rank: list[dict[str, Any]], tmp_path: Path, topology: str, tables: str
) -> None:
    setting = f"frontend.relative_bias={tables}"
    expected = one_rank if tables == "shared" else train(tmp_path / "one", prepared, {}, *MIXED, setting)
    size, changes = {"dp2": (2, {}), "accumulation4": (1, {"train_micro_batch_size_per_gpu": 2})}[topology]
    found = train(tmp_path / "run", prepared, changes, *MIXED, setting, world_size=size)
    assert_equal(found, expected)


def assert_equal(rows: list[dict[str, Any]], alone: list[dict[str, Any]]) -> None:
    """Assert that the metrics are those of one rank, to 1e-5 in the first 5 updates and to 1e-4 after them."""
    assert [row["step"] for row in rows] == [row["step"] for row in alone] == list(range(1, len(alone) + 1))
    for row, expected in zip(rows, alone, strict=True):
        for key in {"loss", "grad_norm", "eval_loss", "accuracy"} & expected.keys():
            assert row[key] == pytest.approx(expected[key], rel=1e-5 if row["step"] <= 5 else 1e-4), (row["step"], key)


@pytest.mark.slow
def test_tensor_parallel_ranks_and_accumulation_agree_with_one_rank_for_20_updates(prepared: Path, tmp_path: Path) -> None:
    longer = (*MIXED, "run.max_steps=20", "optim.schedule_steps=20", "run.eval_steps=5", "run.save_steps=5")
    alone = train(tmp_path / "alone", prepared, {}, *longer)
    assert len(alone) == 20 and "eval_loss" in alone[-1]
    for name, size, changes in (
        ("tp2", 2, {"megatron": {"tensor_model_parallel_size": 2}}),
        ("dp2", 2, {}),
        ("accumulation4", 1, {"train_micro_batch_size_per_gpu": 2}),
    ):
        assert_equal(train(tmp_path / name, prepared, changes, *longer, world_size=size), alone)


def test_a_run_that_is_continued_repeats_the_undisturbed_one_bit_for_bit(
    prepared: Path, one_rank: list[dict[str, Any]], tmp_path: Path
) -> None:
    train(tmp_path / "run", prepared, {}, *MIXED, "run.max_steps=3")
    found = train(tmp_path / "run", prepared, {}, *MIXED)
    for key in ("step", "loss", "grad_norm"):
        assert [row[key] for row in found] == [row[key] for row in one_rank]
    assert found[-1]["eval_loss"] == one_rank[-1]["eval_loss"]


def test_mixing_changes_what_is_learned(prepared: Path, one_rank: list[dict[str, Any]], tmp_path: Path) -> None:
    plain = train(tmp_path / "run", prepared, {})
    assert all(ours["loss"] != theirs["loss"] for ours, theirs in zip(plain[1:], one_rank[1:], strict=True))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            (*MIXED, "run.global_batch_size=9"),
            r"global_batch_size 9 is odd, and images are mixed in pairs; --set run\.global_batch_size=10",
        ),
        (("frontend.image_size=36",), r"image_size 36 is no whole number of patches of frontend\.patch_size 8; use --set .*=32"),
        (("data.crop_scale=1,0.5",), r"data\.crop_scale 1,0\.5 is no range"),
    ],
)
def test_settings_that_do_not_fit_are_refused(images: Path, settings: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        LabelledVisionSource().check(recipe_of(images, *settings))


def test_another_objective_is_refused(images: Path) -> None:
    recipe = replace(recipe_of(images), objective=RegressConfig())
    with pytest.raises(ConfigError, match="objective regress: labelled images are for classification"):
        LabelledVisionSource().check(recipe)


def test_a_missing_torchvision_is_refused_before_anything_is_prepared(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    LabelledVisionSource().check(recipe_of(images))
    with pytest.raises(ConfigError, match=r"torchvision cannot be imported .*; install the extra `vision`"):
        LabelledVisionSource().check(recipe_of(images, "data.erase_prob=0.25"))


def test_a_dry_run_says_what_is_read_and_refuses_data_without_labels(images: Path, prepared: Path, tmp_path: Path) -> None:
    source = LabelledVisionSource()
    assert source.check_data(recipe_of(images), images) == "all: 40 files (40 .png)"
    assert source.check_data(recipe_of(prepared), prepared) == ""
    flat = write_images(tmp_path / "flat", 4, ("", ""))
    with pytest.raises(ConfigError, match="and no folder for each class"):
        source.check_data(recipe_of(flat), flat)


def test_labels_and_updates_follow_from_the_data(images: Path, prepared: Path) -> None:
    recipe = recipe_of(images, "finetune.epochs=3")
    assert isinstance(source_of(recipe), LabelledVisionSource)
    values = LabelledVisionSource().values(recipe, prepared)
    assert values["objective.labels"] == ("blue", "red")
    assert values["run.max_steps"] == 12 and "run.eval_steps" not in values, "36 of 40 images are trained on, 8 at a time; the other is set"
    train_split, valid_split = LabelledVisionSource().open_data(apply_overrides(recipe, ["objective.labels=blue,red"]), prepared)
    assert (len(train_split), len(valid_split)) == (36, 4)
