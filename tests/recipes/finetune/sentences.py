"""Sentences with classes, for probes: not the same classes in every split, and another one is the most frequent."""

import random
from pathlib import Path

from tests.made_up import SYLLABLES

TRAIN, TEST = {"x": 60, "y": 40, "z": 20}, {"new": 5, "x": 10, "y": 15, "z": 20}
"""Class -> sentences."""
HINTS = {"x": SYLLABLES[:4], "y": SYLLABLES[3:7], "z": SYLLABLES[6:], "new": SYLLABLES}


def write_sentences(folder: Path) -> Path:
    """train.csv, test.csv and valid.csv of TRAIN, TEST and one more: text in column sentence, classes in column kind, class by class. A
    sentence hints at its class, no more."""
    rng = random.Random(0)
    for split, counts in (("train", TRAIN), ("test", TEST), ("valid", {"x": 1, "z": 2})):
        kinds = [kind for kind, count in counts.items() for _ in range(count)]
        rows = [" ".join(rng.choice((*HINTS[kind], *SYLLABLES)) for _ in range(rng.randint(2, 9))) for kind in kinds]
        lines = [f"{text},{kind}" for text, kind in zip(rows, kinds, strict=True)]
        (folder / f"{split}.csv").write_text("\n".join(["sentence,kind", *lines]) + "\n")
    return folder
