"""An automatic micro-batch: the smallest offer of all ranks, and that of the run when it continues."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.ds_config import EngineConfig, resolve, with_micro_batch
from recipes.run_dir.run_dir import RunDir
from recipes.settings import apply_overrides, recipe_to_dict
from recipes.text import text_base
from recipes.train.micro_batch import agreed_micro_batch, kept_micro_batch
from tests.launching import PRETRAIN_TEXT, launch, overrides

RECIPE = text_base()


class Gathered:
    """Ranks of which this process is the first. `others`: what the other ranks pass to gather()."""

    def __init__(self, *others: tuple) -> None:
        self.others = others

    def on_rank_zero(self, job: Callable[[], Any]) -> Any:
        """Run `job` here."""
        return job()

    def gather(self, value: Any) -> list[Any]:
        """Return the value and those of the others."""
        return [value, *self.others]


def auto(micro: int, largest: int | None = None, world_size: int = 1) -> EngineConfig:
    config = with_micro_batch(RECIPE, resolve(RECIPE, {}, "x.json", world_size), micro)
    return replace(config, largest_micro_batch=largest)


def run_with(path: Path, micro: int, world_size: int = 1) -> Path:
    """Return the run dir of a run that has made an update with micro-batches of `micro` samples."""
    run_dir = RunDir(path)
    deepspeed = {"train_micro_batch_size_per_gpu": micro}
    run_dir.save_config({"recipe": recipe_to_dict(RECIPE), "world_size": world_size, "tp_size": 1, "deepspeed": deepspeed})
    (path / "metrics.jsonl").write_text('{"step": 1}\n')
    run_dir.release()
    return path


def test_all_ranks_take_the_smallest_offer(tmp_path: Path) -> None:
    config = agreed_micro_batch(Gathered((True, 32, 64), (True, 128, 256)), tmp_path, RECIPE, auto(64))
    assert config.batch.micro_batch_size == config.deepspeed["train_micro_batch_size_per_gpu"] == 32
    assert config.deepspeed["gradient_accumulation_steps"] == 8


def test_a_run_that_continues_keeps_its_micro_batch(tmp_path: Path) -> None:
    path = run_with(tmp_path / "run", 8)
    for config in (
        agreed_micro_batch(Gathered((True, 32, 64)), path, RECIPE, auto(64, 128)),
        kept_micro_batch(path, RECIPE, auto(64, 128)),
    ):
        assert config.batch.micro_batch_size == 8 and config.deepspeed["gradient_accumulation_steps"] == 32


def test_a_micro_batch_that_any_rank_s_memory_cannot_hold_is_not_kept(tmp_path: Path) -> None:
    path = run_with(tmp_path / "run", 128)
    assert agreed_micro_batch(Gathered((True, 32, 64)), path, RECIPE, auto(64, 128)).batch.micro_batch_size == 32
    assert agreed_micro_batch(Gathered((True, 32, 128)), path, RECIPE, auto(64, 128)).batch.micro_batch_size == 128
    assert kept_micro_batch(path, RECIPE, auto(16, 64)).batch.micro_batch_size == 16


def test_other_ranks_choose_anew(tmp_path: Path) -> None:
    path = run_with(tmp_path / "run", 8, world_size=2)
    assert kept_micro_batch(path, RECIPE, auto(16)).batch.micro_batch_size == 16
    assert kept_micro_batch(path, RECIPE, auto(16, world_size=2)).batch.micro_batch_size == 8


def test_another_global_batch_keeps_it_if_it_divides(tmp_path: Path) -> None:
    path = run_with(tmp_path / "run", 16)
    for total, kept in ((320, 16), (264, 12)):
        recipe = apply_overrides(RECIPE, [f"run.global_batch_size={total}"])
        config = with_micro_batch(recipe, resolve(recipe, {}, "x.json", 1), 12 if total == 264 else 4)
        assert kept_micro_batch(path, recipe, config).batch.micro_batch_size == kept


@pytest.mark.parametrize("micro", [4, 64])
def test_a_number_in_the_ds_config_stays(micro: int, tmp_path: Path) -> None:
    path = run_with(tmp_path / "run", 8)
    config = resolve(RECIPE, {"train_micro_batch_size_per_gpu": micro}, "x.json", 1)
    assert agreed_micro_batch(Gathered((False, micro, None)), path, RECIPE, config) == config == kept_micro_batch(path, RECIPE, config)


def test_a_new_run_takes_what_was_chosen(tmp_path: Path) -> None:
    assert agreed_micro_batch(Gathered(), tmp_path / "new", RECIPE, auto(64)) == auto(64) == kept_micro_batch(tmp_path, RECIPE, auto(64))


def test_training_continues_with_the_micro_batch_of_the_run_and_not_with_what_auto_gives_now(tmp_path: Path, tiny_prepared: Path) -> None:
    (tmp_path / "two.json").write_text('{"train_micro_batch_size_per_gpu": 2}')
    common = ["--run-dir", tmp_path / "run", "--data", tiny_prepared]
    for steps, config, flags in ((1, "two.json", []), (2, "zero3_cpu", ["--dry-run"]), (2, "zero3_cpu", [])):
        path = tmp_path / config if config == "two.json" else config
        done = launch(PRETRAIN_TEXT, [*common, "--deepspeed_config", path, *flags, *overrides(run__max_steps=steps)], tmp_path)
        assert done.returncode == 0, done.stderr
        assert re.search("micro(-batch)? 2 x accumulation 4", done.stdout), done.stdout
    assert json.loads((tmp_path / "run" / "config.json").read_text())["deepspeed"]["train_micro_batch_size_per_gpu"] == 2
    assert "train_micro_batch_size_per_gpu" not in "".join(line for line in done.stdout.splitlines() if line.startswith("changed"))
