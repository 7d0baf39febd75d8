"""Made-up data sets for tests, always with the same content: a book of invented words, recordings of tones, pictures of colours."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

SYLLABLES = ("ba", "do", "ki", "lu", "me", "no", "pa", "ri", "su", "te")
RATE = 16_000


def write_book(path: Path, num_lines: int = 400) -> Path:
    """Write a .txt file with one paragraph per line."""
    rng = random.Random(0)
    lines = [" ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(rng.randint(5, 40))) for _ in range(num_lines)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_tones(folder: Path, num_files: int = 40) -> Path:
    """Write mono .wav files of 30 to 130 milliseconds: tones that change, in noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_files):
        rng = np.random.default_rng(number)
        seconds = np.arange(rng.integers(480, 2080)) / RATE
        tones = sum(np.sin(2 * np.pi * (hertz * seconds + 3000 * seconds**2)) for hertz in rng.uniform(100, 3000, 3))
        soundfile.write(folder / f"{number:03}.wav", 0.1 * tones + 0.02 * rng.standard_normal(len(seconds)), RATE)
    return folder


def write_pictures(folder: Path, num_files: int = 40) -> Path:
    """Write .png files of 40 x 48 pixels: a few blurred patches of colour each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_files):
        small = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{number:03}.png")
    return folder


WRITE: dict[str, Callable[[Path], Path]] = {
    "text": lambda folder: write_book(folder / "book.txt"),
    "speech": lambda folder: write_tones(folder / "tones"),
    "vision": lambda folder: write_pictures(folder / "pictures"),
}
"""Modality -> function that writes its data set into an existing folder and returns the path for --data."""
