"""Made-up reviews with two classes, and the fine-tuning command on them with tiny settings."""

import random
import subprocess
from pathlib import Path

from tests.launching import ROOT, launch
from tests.made_up import SYLLABLES

FINETUNE = {modality: ROOT / "launch" / f"finetune_{modality}.py" for modality in ("text", "speech", "vision")}
COUNTS = {"train": 32, "valid": 12, "test": 8}


def write_reviews(folder: Path) -> Path:
    """Write train.csv, valid.csv and test.csv with the columns text and label into a new folder, and return it."""
    folder.mkdir()
    rng = random.Random(0)
    for split, count in COUNTS.items():
        rows = [f"{' '.join(rng.choices(SYLLABLES[number % 2 :: 2], k=9))},{('no', 'yes')[number % 2]}" for number in range(count)]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return folder


def arguments(data: Path, source: object, run_dir: Path, *more: object) -> list[object]:
    """Return the flags of the text command for three epochs of four updates, with an evaluation in each half epoch. `source`: --from."""
    settings = ("finetune.epochs=3", "finetune.evals_per_epoch=2", "run.global_batch_size=8", "optim.lr=0.01")
    sets = [part for one in settings for part in ("--set", one)]
    return ["--task", "classify", "--from", source, "--data", data, "--run-dir", run_dir, *sets, *more]


def finetune(data: Path, source: object, run_dir: Path, *more: object) -> subprocess.CompletedProcess[str]:
    """Run the text command in the folder of `run_dir`."""
    return launch(FINETUNE["text"], arguments(data, source, run_dir, *more), run_dir.parent, timeout=200)
