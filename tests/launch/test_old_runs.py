"""Run dirs that an older release wrote (tests/old_runs/): the current commands resume, probe and inspect them, from the same bits."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from recipes.finetune.results import convert
from tests.launching import PRETRAIN, PROBE, ROOT, launch, read_jsonl, refused

CONVERT = ROOT / "launch" / "convert.py"
OLD_RUNS = ROOT / "tests" / "old_runs"
WRITTEN_AT = "/OLD"
"""Placeholder in prepared.json for the folder in which the old release ran."""
ANY_CPU = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
"""torch uses different kernels on different processors, which round differently. All processors have these kernels."""
MODALITY = pytest.mark.parametrize("modality", PRETRAIN)


@dataclass(frozen=True)
class OldRun:
    """A copy of an old run: `run`, the `data` it was trained on, and the results of the old release."""

    modality: str
    folder: Path
    expected: dict[str, Any]

    def launch(self, script: Path, *args: object, **kwargs: Any):  # type: ignore[no-untyped-def]
        """Run a command in its folder, with kernels that all processors have."""
        return launch(script, args, self.folder, env=ANY_CPU, **kwargs)

    def resume(self, steps: int):  # type: ignore[no-untyped-def]
        """Run the pre-training command of the old run up to this step."""
        numbers = self.expected["settings"] | {"run.max_steps": steps}
        settings = [part for name, value in numbers.items() for part in ("--set", f"{name}={value}")]
        config = ROOT / "ds_configs" / "zero3_cpu.json"
        return self.launch(PRETRAIN[self.modality], "--deepspeed_config", config, "--data", "data", "--run-dir", "run", *settings)


def copy_of(modality: str, folder: Path) -> OldRun:
    """Copy the modality's old run, with paths as if it had been made in this folder."""
    shutil.copytree(OLD_RUNS / modality, folder, dirs_exist_ok=True)
    prepared = folder / "run" / "prepared" / "prepared.json"
    prepared.write_text(prepared.read_text().replace(WRITTEN_AT, str(folder)))
    return OldRun(modality, folder, json.loads((folder / "expected.json").read_text()))


NEW_KEYS = [f"deepspeed.zero_optimization.{key}" for key in ("leaf_module.classes", "stage3_use_all_reduce_for_fetch_params")]
SAME = ("step", "lr", "ema_decay", "masked_fraction", "samples", "tokens", "skipped_steps", "world_size", "tp_size")
"""Values of an update that do not depend on random dropout, whose draws are others since 0.9.0."""


@MODALITY
def test_an_old_run_continues_where_the_old_release_stopped(modality: str, tmp_path: Path) -> None:
    old = copy_of(modality, tmp_path)
    rows, events = (read_jsonl(tmp_path / "run" / name) for name in ("metrics.jsonl", "events.jsonl"))
    done = old.resume(steps=24)
    assert (done.returncode, done.stderr) == (0, "")
    now = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert now[:20] == rows
    wanted, first = old.expected["rows"], now[20]
    assert [{key: row[key] for key in SAME} for row in now[20:]] == [{key: row[key] for key in SAME} for row in wanted]
    assert first["target_std"] == pytest.approx(wanted[0]["target_std"], rel=1e-6), "the teacher has no dropout: same weights, same data"
    for row, before in zip(now[20:], wanted, strict=True):
        assert row["loss"] == pytest.approx(before["loss"], rel=0.1)
    assert now[-1]["eval_loss"] == pytest.approx(wanted[-1]["eval_loss"], rel=0.02)
    since = read_jsonl(tmp_path / "run" / "events.jsonl")[len(events) :]
    assert [event["event"] for event in since] == ["resume", "change", "save", "stop"], "no damage, no spike"
    assert sorted(since[1]["fields"]) == NEW_KEYS, "zero3_cpu.json has had them since 0.9.0 and 0.10.0"


@MODALITY
def test_an_old_run_is_probed_with_the_numbers_of_the_old_release(modality: str, tmp_path: Path) -> None:
    old = copy_of(modality, tmp_path)
    done = old.launch(PROBE, "--from", "run", "--task", old.expected["task"])
    assert (done.returncode, done.stderr) == (0, "")
    (result,) = json.loads((tmp_path / "run" / "results.json").read_text())
    expected = convert(old.expected["probe"] | {"data": str(tmp_path / "data")})
    assert {key: result.get(key) for key in expected} == expected


@MODALITY
def test_the_checkpoint_of_an_old_run_is_inspected_and_whole(modality: str, tmp_path: Path) -> None:
    done = copy_of(modality, tmp_path).launch(CONVERT, "inspect", "run", "--verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nstep 20, update 20 (0 skipped), 160 samples, " in done.stdout and ", commit f5c6c6f85903; " in done.stdout


def test_a_setting_that_an_old_run_does_not_have_is_the_default_of_its_class(tmp_path: Path) -> None:
    """It is not the default of the recipe. EncoderConfig has 12 layers, text_tiny 3, this run 1. A key that is newer than a run
    is not in its config.json, and the default of its class is the behaviour of the older release."""
    old = copy_of("text", tmp_path)
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    assert config["recipe"]["model"].pop("num_layers") == 1
    path.write_text(json.dumps(config, indent=2) + "\n")
    refused(old.resume(steps=24), r"\(1 differ: model\.num_layers 12 -> 1\)")
    assert len(read_jsonl(tmp_path / "run" / "metrics.jsonl")) == 20


@MODALITY
def test_a_new_run_begins_with_the_weights_and_the_tokenizer_of_an_old_run(modality: str, tmp_path: Path) -> None:
    old = copy_of(modality, tmp_path)
    numbers = old.expected["settings"] | {"run.max_steps": 1, "start.start_from": "run", "start.teacher": "stored"}
    has_tokenizer = numbers.pop("data.tokenizer", None) is not None
    numbers |= {"data.lowercase": "false"} if has_tokenizer else {}  # the tokenizer that the old run was given keeps capitals
    settings = [part for name, value in numbers.items() for part in ("--set", f"{name}={value}")]
    done = old.launch(PRETRAIN[modality], "--data", "data", "--run-dir", "new", *settings)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    begun = read_jsonl(tmp_path / "new" / "events.jsonl")[0]["start_from"]
    assert (begun["path"], begun["step"]) == (str(tmp_path / "run" / "checkpoints" / "step_00000020"), 20)
    there, here = tmp_path / "run" / "prepared" / "tokenizer.model", tmp_path / "new" / "tokenizer.model"
    assert (there.exists(), here.exists()) == (has_tokenizer, has_tokenizer)
    assert not has_tokenizer or there.read_bytes() == here.read_bytes()
