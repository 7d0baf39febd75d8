"""A modality is one object in one file: the existing code trains, resumes and plans a fourth modality, with every ds_config that fits the
CPU."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.launching import PRETRAIN_TEXT, ROOT, launch, read_jsonl, start_ranks

TOY = Path(__file__).parent / "toy_numbers.py"
CPU_CONFIGS = {"zero3_cpu": {}, "zero3_cpu_bf16": {}, "zero3_offload_cpu": {"bf16": {"enabled": False}}, "zero3_tp2_bf16": {}}
"""Shipped ds_configs that run without a GPU, with the changes that the CPU's kernels need."""
SETTINGS = {
    **{"model.num_layers": 1, "model.hidden_size": 16, "model.ffn_hidden_size": 32, "model.num_attention_heads": 2},
    **{"teacher.average_top_k_layers": 1, "optim.warmup_steps": 2, "optim.lr": 0.01, "run.global_batch_size": 8, "run.log_steps": 1},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """128 sine waves: a patch can be predicted from the others."""
    folder, rng = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    np.save(folder / "numbers.npy", np.sin(np.arange(64) * rng.uniform(0.1, 0.6, (128, 1)) + rng.uniform(0, 6, (128, 1))))
    return folder


def flags(rows: Path, run_dir: Path, steps: int, *more: object) -> list[object]:
    settings = [part for key, value in (SETTINGS | {"run.max_steps": steps}).items() for part in ("--set", f"{key}={value}")]
    return ["--recipe", f"{TOY}:numbers_tiny", "--data", rows, "--run-dir", run_dir, *settings, *more]


def test_it_learns_and_resumes_bit_for_bit(rows: Path, tmp_path: Path) -> None:
    for run, stops in (("whole", [40]), ("parts", [25, 40])):
        for steps in stops:
            done = launch(PRETRAIN_TEXT, flags(rows, tmp_path / run, steps, "--set", "run.eval_steps=40"), tmp_path)
            assert done.returncode == 0, done.stderr
    whole, parts = (read_jsonl(tmp_path / run / "metrics.jsonl") for run in ("whole", "parts"))
    assert whole[-1]["loss"] < 0.9 * whole[0]["loss"] and "explained_variance" in whole[-1]
    assert [row["loss"] for row in parts] == [row["loss"] for row in whole]
    recipe = json.loads((tmp_path / "whole" / "config.json").read_text())["recipe"]
    assert (recipe["modality"], recipe["mask"]["kind"], recipe["data"]["kind"]) == ("numbers", "random", "numbers")


@pytest.mark.parametrize("name", CPU_CONFIGS)
def test_it_trains_with_every_ds_config_that_fits_the_cpu(rows: Path, tmp_path: Path, name: str) -> None:
    content = json.loads((ROOT / "ds_configs" / f"{name}.json").read_text()) | CPU_CONFIGS[name]
    (tmp_path / "ds.json").write_text(json.dumps(content))
    ranks = content.get("megatron", {}).get("tensor_model_parallel_size", 1)
    words = flags(rows, tmp_path / "run", 2, "--deepspeed_config", tmp_path / "ds.json")
    for done in start_ranks(PRETRAIN_TEXT, words, tmp_path, ranks).wait(90):
        assert done.returncode == 0, done.stderr
    assert [row["step"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == [1, 2]


def test_a_dry_run_counts_it_and_wrong_settings_are_one_line(rows: Path, tmp_path: Path) -> None:
    done = launch(PRETRAIN_TEXT, flags(rows, tmp_path / "run", 2, "--dry-run"), tmp_path)
    assert done.returncode == 0 and "parameters: " in done.stdout and '"kind": "random"' in done.stdout
    for setting, complaint in (("frontend.patch_length=5", "64 is no multiple of 5"), ("mask.num_patches=0", "must be at least 1")):
        done = launch(PRETRAIN_TEXT, flags(rows, tmp_path / "run", 2, "--dry-run", "--set", setting), tmp_path)
        assert done.returncode == 2 and complaint in done.stderr and done.stderr.count("\n") == 1
