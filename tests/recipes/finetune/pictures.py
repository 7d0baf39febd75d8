"""Red and blue pictures, for tests of probes."""

from pathlib import Path

import numpy as np
from PIL import Image

NUM_IMAGES = 12


def write_images(folder: Path, count: int = NUM_IMAGES, classes: tuple[str, str] = ("blue", "red")) -> Path:
    """Write pictures into one folder per class, or all into `folder` if the names of the classes are empty."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / classes[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 60, (24, 24, 3), dtype=np.uint8)
        pixels[..., 2 * (number % 2 == 0)] += 150
        Image.fromarray(pixels).save(path)
    return folder
