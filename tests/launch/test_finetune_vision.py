"""launch/finetune_vision.py like a user: from random weights and from a pre-trained run to a best checkpoint, and refused starts."""

import sys
from pathlib import Path

import pytest

from tests.launching import PRETRAIN, ROOT, launch, overrides, read_jsonl, refused, start
from tests.recipes.finetune.pictures import write_images

FINETUNE = ROOT / "launch" / "finetune_vision.py"
NETWORK = [
    *("--set", "model.num_layers=1", "--set", "model.hidden_size=16", "--set", "model.ffn_hidden_size=32"),
    *("--set", "model.num_attention_heads=2", "--set", "frontend.image_size=32"),
]
"""The network of the settings TINY of tests.launching."""
SHORT = ["--set", "run.global_batch_size=8", "--set", "data.num_workers=0"]


def hide_torchvision() -> None:
    """Make every import of torchvision fail."""
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    sys.modules["torchvision.transforms"] = None  # type: ignore[assignment]


def test_red_and_blue_are_learned_from_random_weights_and_the_missing_splits_are_said(tmp_path: Path) -> None:
    write_images(tmp_path / "data", 40)
    args = ["--from", "random", "--task", "classify", "--data", "data", "--run-dir", "run", *NETWORK, *SHORT]
    done = launch(FINETUNE, [*args, "--set", "finetune.epochs=8", "--set", "optim.lr=0.01"], tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "no split 'valid': 4 of 40 training samples are held out instead" in done.stdout and "no split 'test'" in done.stdout
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["step"] == 32 and rows[-1]["loss"] < 0.8 * rows[0]["loss"] and rows[-1]["accuracy"] == 1
    assert (tmp_path / "run" / "checkpoints" / "best").exists()


def test_a_pre_trained_run_is_the_start_and_its_network_is_kept(tmp_path: Path) -> None:
    write_images(tmp_path / "data", 40)
    done = launch(PRETRAIN["vision"], ["--data", "data", "--run-dir", "before", *overrides("vision")], tmp_path)
    assert done.returncode == 0, done.stderr
    args = ["--from", "before", "--task", "classify", "--data", "data", "--run-dir", "run", *SHORT, "--set", "finetune.epochs=1"]
    mixed = ["--set", "data.mixup_alpha=0.8", "--set", "data.cutmix_alpha=1"]
    done = launch(FINETUNE, [*args, *mixed], tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "before" in done.stdout and len(read_jsonl(tmp_path / "run" / "metrics.jsonl")) == 4


def test_without_torchvision_augmentation_is_one_line_before_anything_is_prepared(tmp_path: Path) -> None:
    write_images(tmp_path / "data", 40)
    args = ["--from", "random", "--task", "classify", "--data", "data", "--run-dir", "run", *NETWORK, *SHORT]
    done = start(FINETUNE, [*args, "--set", "data.rand_augment_ops=2"], tmp_path, before=hide_torchvision).wait()
    refused(done, r"data\.rand_augment_ops 2: torchvision cannot be imported \(.*\); install the extra `vision`")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--from", "random"], r"--task is missing; there are classify"),
        (["--from", "random", "--task", "ctc"], r"--task ctc: unknown; there are classify"),
        (["--task", "classify"], r"--from is missing"),
        (["--from", "random", "--task", "classify"], r"--data is missing; name a folder of class folders"),
        (
            ["--from", "random", "--task", "classify", "--data", "flat"],
            r"flat: no column 'label' of labels in split train, and no folder for each class",
        ),
    ],
)
def test_a_start_that_cannot_work_is_one_line(args: list[str], complaint: str, tmp_path: Path) -> None:
    write_images(tmp_path / "flat", 4, ("", ""))
    refused(launch(FINETUNE, [*args, "--run-dir", "run", *SHORT], tmp_path), complaint)
    assert not (tmp_path / "run" / "prepared").exists()
