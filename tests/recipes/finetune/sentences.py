"""Sentences with classes, for tests of probes. The splits have different classes and different most frequent classes."""

import random
from pathlib import Path

from tests.made_up import SYLLABLES

TRAIN, TEST = {"x": 60, "y": 40, "z": 20}, {"new": 5, "x": 10, "y": 15, "z": 20}
"""Class -> number of sentences."""
HINTS = {"x": SYLLABLES[:4], "y": SYLLABLES[3:7], "z": SYLLABLES[6:], "new": SYLLABLES}


def write_sentences(folder: Path) -> Path:
    """Write train.csv (TRAIN), test.csv (TEST) and valid.csv: text in column sentence, classes in column kind, ordered by class. The
    syllables of a sentence depend only weakly on its class."""
    rng = random.Random(0)
    for split, counts in (("train", TRAIN), ("test", TEST), ("valid", {"x": 1, "z": 2})):
        kinds = [kind for kind, count in counts.items() for _ in range(count)]
        rows = [" ".join(rng.choice((*HINTS[kind], *SYLLABLES)) for _ in range(rng.randint(2, 9))) for kind in kinds]
        lines = [f"{text},{kind}" for text, kind in zip(rows, kinds, strict=True)]
        (folder / f"{split}.csv").write_text("\n".join(["sentence,kind", *lines]) + "\n")
    return folder
