"""Random changes of training images in fine-tuning, by torchvision: RandAugment before normalisation, random erasing after it. Crops and
flips are images.py's, mixing of two images is mixing.py's. torchvision is an extra, imported only if a setting needs it.

Shapes: C 3 colours, H, W pixels.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from model.frontends.config import IMAGENET_MEAN
from recipes.errors import ConfigError, first_line
from recipes.labelled_config import LabelledVisionDataConfig

FILL = [round(255 * mean) for mean in IMAGENET_MEAN]
"""Colour of the pixels that a shifted or turned picture leaves empty: 0 after normalisation (timm's img_mean). torchvision's is black."""
MAX_SEED = 2**63


def check_augmentation(data: LabelledVisionDataConfig) -> None:
    """Check that torchvision can be imported if rand_augment_ops or erase_prob is above 0. Raises: ConfigError if it cannot."""
    settings = {"data.rand_augment_ops": data.rand_augment_ops, "data.erase_prob": data.erase_prob}
    needed = [name for name, value in settings.items() if value]
    if not needed:
        return
    try:
        import torchvision.transforms  # noqa: F401
    except (ImportError, RuntimeError) as error:  # RuntimeError: its compiled part does not fit this torch, so that operators are missing
        raise ConfigError(
            f"{' and '.join(f'{name} {settings[name]:g}' for name in needed)}: torchvision cannot be imported ({first_line(error)}); "
            f"install the extra `vision` from the index that torch came from, or --set {' --set '.join(f'{name}=0' for name in needed)}"
        ) from error


def rand_augment(image: Image.Image, data: LabelledVisionDataConfig, rng: np.random.Generator) -> Image.Image:
    """Return the RGB picture after rand_augment_ops random changes of strength rand_augment_magnitude: shifts, shears, turns and changes
    of colour. With 0 changes the picture itself is returned. `rng` advances in both cases.

    Source: torchvision's RandAugment (arXiv 1909.13719). Interpolation and fill are those of data2vec's vision release. That release uses
    timm's variant (rand-m9-mstd0.5-inc1), which has other kinds of changes and a random strength for each.
    """
    seed = int(rng.integers(MAX_SEED))
    if not data.rand_augment_ops:
        return image
    from torchvision.transforms import InterpolationMode, RandAugment

    change = RandAugment(data.rand_augment_ops, data.rand_augment_magnitude, interpolation=InterpolationMode.BICUBIC, fill=FILL)
    with _seeded_torch(seed):
        return change(image)


def random_erase(view_CHW: np.ndarray, data: LabelledVisionDataConfig, rng: np.random.Generator) -> np.ndarray:
    """With probability erase_prob, return the normalised picture with a random rectangle replaced by normal noise. The rectangle has 2 to
    33 % of the picture's area and a ratio height / width between 0.3 and 3.3. `rng` advances in both cases.

    Shapes: float32 (C, H, W). It is the array itself if nothing is erased.
    Source: torchvision's RandomErasing (arXiv 1708.04896), with timm's noise for each pixel.
    """
    seed = int(rng.integers(MAX_SEED))
    if not data.erase_prob:
        return view_CHW
    import torch
    from torchvision.transforms import RandomErasing

    with _seeded_torch(seed):
        return RandomErasing(data.erase_prob, value="random")(torch.from_numpy(view_CHW)).numpy()


@contextmanager
def _seeded_torch(seed: int) -> Iterator[None]:
    """Seed torch's global generator of the CPU, and restore its state at the end. torchvision draws from that generator only. With
    num_workers 0 the training process decodes, and its dropout draws from the same generator."""
    import torch  # imported here, so that check_augmentation without augmentation needs no torch

    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would also seed the generators of all devices, which fork_rng(devices=[]) does not restore.
        torch.default_generator.manual_seed(seed)
        yield
