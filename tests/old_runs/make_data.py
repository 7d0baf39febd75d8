"""The raw data of the old runs, in FOLDER/MODALITY/data: small files of few kinds. Not the runs; README.md has the commands.

PYTHONPATH=. python tests/old_runs/make_data.py FOLDER
"""

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sentencepiece
import soundfile
from PIL import Image

from tests.made_up import RATE, SYLLABLES, write_pictures, write_tones

NUM_FILES = 24
NUM_LINES = 100
NUM_WORDS = 25


def text(folder: Path) -> None:
    """A book in which two words may follow each word, and its tokenizer."""
    rng = random.Random(0)
    words = [first + second for first in SYLLABLES[:5] for second in SYLLABLES[5:]]
    lines = []
    for _ in range(NUM_LINES):
        word, line = rng.randrange(NUM_WORDS), []
        for _ in range(rng.randint(12, 30)):
            line.append(words[word])
            word = (3 * word + rng.randint(1, 2)) % NUM_WORDS
        lines.append(" ".join(line))
    (folder / "book.txt").write_text("\n".join(lines) + "\n")
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=file,
            model_type="bpe",
            vocab_size=79,
            normalization_rule_name="identity",  # the usual rule alone takes 240 kB
            bos_id=0,
            pad_id=1,
            eos_id=2,
            unk_id=3,
            num_threads=1,
            minloglevel=2,
        )


def speech(folder: Path) -> None:
    """Tones of eight bits, those that cross zero more often in one class."""
    files = sorted(write_tones(folder, NUM_FILES).glob("*.wav"))
    for file in files:
        soundfile.write(file, soundfile.read(file)[0], RATE, subtype="PCM_U8")
    into_classes(files, lambda file: float(np.mean(np.diff(np.sign(soundfile.read(file)[0])) != 0)), ("low", "high"))


def vision(folder: Path) -> None:
    """Pictures of 20 x 16 pixels, those of more contrast in one class."""
    files = sorted(write_pictures(folder, NUM_FILES).glob("*.png"))
    for file in files:
        Image.open(file).resize((20, 16)).save(file)
    into_classes(files, lambda file: float(np.asarray(Image.open(file)).std()), ("flat", "lively"))


def into_classes(files: list[Path], measure: Callable[[Path], float], names: tuple[str, str]) -> None:
    """Move the half with the smaller measure into a folder of the first name, the others into one of the second."""
    for place, file in enumerate(sorted(files, key=measure)):
        label = file.parent / names[2 * place // len(files)]
        label.mkdir(exist_ok=True)
        file.rename(label / file.name)


if __name__ == "__main__":
    for make in (text, speech, vision):
        data = Path(sys.argv[1], make.__name__, "data")
        data.mkdir(parents=True)
        make(data)
