"""Red and blue pictures, for probes."""

from pathlib import Path

import numpy as np
from PIL import Image

NUM_IMAGES = 12


def write_images(folder: Path, count: int = NUM_IMAGES, classes: tuple[str, str] = ("blue", "red")) -> Path:
    """Pictures in one folder per class, or all in `folder` where the classes have no name."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / classes[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 60, (24, 24, 3), dtype=np.uint8)
        pixels[..., 2 * (number % 2 == 0)] += 150
        Image.fromarray(pixels).save(path)
    return folder
