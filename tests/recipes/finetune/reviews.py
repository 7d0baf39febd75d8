"""A labelled data set of made-up sentences and the flags that fine-tune a tiny text network on it in a second."""

import csv
import random
from collections.abc import Sequence
from pathlib import Path

from tests.launching import ROOT, overrides

FINETUNE_TEXT = ROOT / "launch" / "finetune_text.py"
WORDS = {"good": ("warm", "bright", "kind"), "bad": ("dull", "cold", "slow")}
COUNTS = {"train": 24, "valid": 8, "test": 13}


def write_reviews(folder: Path, counts: dict[str, int] | None = None, *, unlabelled: Sequence[str] = ()) -> Path:
    """Write one csv file for each split in `counts`, with the columns text and label, and return the folder. Splits in `unlabelled` have no
    labels. Texts contain commas, quotes and line ends."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    for split, count in (counts or COUNTS).items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            for number in range(count):
                label = ("good", "bad")[number % 2]
                said = " ".join(rng.choices(WORDS[label] if rng.random() < 0.8 else ("plain",), k=4))
                rows.writerow([f'A "{said}" film,\nnumber {number}', "" if split in unlabelled else label])
    return folder


def finetune_flags(data: Path, run_dir: Path, **changes: object) -> list[object]:
    """Return the flags of launch/finetune_text.py for two updates from random weights, with `changes` named as in overrides()."""
    settings: dict[str, object] = {
        "frontend__vocab_size": 120,
        "finetune__epochs": 0,
        "run__eval_steps": 1,
        "run__save_steps": 1,
        "optim__schedule_steps": 2,
        **changes,
    }
    return ["--from", "random", "--task", "classify", "--data", data, "--run-dir", run_dir, *overrides(**settings)]
