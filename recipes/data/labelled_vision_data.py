"""The data set of labelled images: reads images of a prepared folder, draws their views, mixes them in pairs, and collates them into a
Batch with targets. Contains nothing about ranks and updates.

Shapes: B batch, C colours, H = W = image_size pixels.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from model.batch import Batch
from model.frontends.config import VisionFrontendConfig
from model.frontends.pixels import normalise
from recipes.data.augment import rand_augment, random_erase
from recipes.data.batch_targets import collate_targets, uncounted
from recipes.data.examples import ImageMaker
from recipes.data.images import decode_image, flipped_crop, pixels_of
from recipes.data.labelled_folder import TRAIN, load_arrays_of, load_info
from recipes.data.labelled_vision_reader import open_pictures
from recipes.data.media import BadItem, UndecodableError, bad_item, first_working
from recipes.data.mixing import mix_pairs
from recipes.data.vision import MAX_REPLACEMENTS, VisionExample
from recipes.labelled_config import LabelledVisionDataConfig
from recipes.supervised_config import ClassifyConfig

NUM_SEEDS = 3
"""Independent streams of random numbers of a sample: its crop and flip, its augmentation, and the mixing of the pair that it begins."""


@dataclass(frozen=True)
class LabelledImage:
    """One sample of one epoch: its view, and where its random numbers and its target are from."""

    view: np.ndarray
    """(C, H, W): float32 and normalised in the training split, whose views are erased and mixed after that; else uint8."""
    epoch: int
    index: int
    """Number of the sample in the split, which its random numbers depend on."""
    shown: int
    """Number of the sample whose image and target it has: in the training split another one if its own image cannot be decoded."""
    is_read: bool = True
    """False: the image cannot be decoded. The sample is black and is not counted."""


class LabelledVisionDataset:
    """The images of one split, addressed by index. The result of example() depends only on (seed, epoch, index), and that of collate() on
    the samples and their pairs. Only the split `train` has random views and is mixed."""

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        frontend: VisionFrontendConfig,
        data: LabelledVisionDataConfig,
        objective: ClassifyConfig,
        seed: int,
    ) -> None:
        """`objective`: with the names of the classes. Raises: ConfigError if the folder is damaged."""
        self.fingerprint = load_info(folder).fingerprint
        arrays = load_arrays_of(folder, split)
        self._media = open_pictures(folder, int(arrays["media"][0]))  # pickled as the names of its files
        self._items_N, self._arrays = arrays["items"], {"target": arrays["target"]} if "target" in arrays else {}
        self._maker, self._data, self._objective, self._seed = ImageMaker(frontend), data, objective, seed
        self._is_random = split == TRAIN
        self._bad: list[BadItem] = []

    def __len__(self) -> int:
        return len(self._items_N)

    def order(self, rng: np.random.Generator) -> None:
        """Return None: all indices, shuffled."""

    def take_bad(self) -> list[BadItem]:
        """Return the images that example() could not decode in this process since the last call, and clear the list."""
        bad, self._bad = self._bad, []
        return bad

    def example(self, epoch: int, index: int, group: tuple[int, ...] = ()) -> LabelledImage:
        """Return sample `index`: in the training split with the view of this epoch, else with the central view. `group` is ignored.

        In the training split, an image that cannot be decoded is replaced by the next one that can, with the target of that one. In the
        others it is not counted, so that no sample is counted twice. take_bad() lists these images.

        Raises: ConfigError if the next hundred training images cannot be decoded either.
        """
        if not self._is_random:
            return self._central(epoch, index)
        following = [(index + step) % len(self) for step in range(min(MAX_REPLACEMENTS + 1, len(self)))]
        items = [int(self._items_N[number]) for number in following]
        image, item, bad = first_working(self._media, items, self._decode)
        self._bad += bad
        return LabelledImage(self._random_view(image, epoch, index), epoch, index, following[items.index(item)])

    def _central(self, epoch: int, index: int) -> LabelledImage:
        item = int(self._items_N[index])
        try:
            return LabelledImage(self._maker.of_image(self._decode(item)).image, epoch, index, index)
        except (OSError, UndecodableError) as error:
            self._bad.append(bad_item(self._media, item, error, self._media.file(item)))
        size = self._maker.frontend.image_size
        return LabelledImage(self._maker.of_image(Image.new("RGB", (size, size))).image, epoch, index, index, is_read=False)

    def _decode(self, item: int) -> Image.Image:
        return decode_image(self._media.read(item))

    def _random_view(self, image: Image.Image, epoch: int, index: int) -> np.ndarray:
        """Return crop, flip, random changes and erasing of the picture. Order: timm's create_transform (data2vec's vision release)."""
        crop_rng, augment_rng, _ = self._generators(epoch, index)
        crop = flipped_crop(image, self._maker.frontend.image_size, self._data, crop_rng)
        pixels_CHW = torch.from_numpy(pixels_of(rand_augment(crop, self._data, augment_rng)))
        return random_erase(normalise(pixels_CHW).numpy(), self._data, augment_rng)

    def _generators(self, epoch: int, index: int) -> list[np.random.Generator]:
        seeds = np.random.SeedSequence((self._seed, epoch, index)).spawn(NUM_SEEDS)
        return [np.random.Generator(np.random.Philox(seed)) for seed in seeds]

    def collate(self, examples: list[LabelledImage]) -> Batch:
        """Return the micro-batch of these samples. In the training split, samples 2i and 2i + 1 are mixed if the settings ask for it; the
        targets are then shares of classes, smoothed already.

        Shapes: inputs (B, C, H, W).
        """
        nothing = np.zeros(self._maker.frontend.grid**2, dtype=bool)
        batch = self._maker.collate([VisionExample(one.view, nothing) for one in examples])
        batch = collate_targets(batch, self._arrays, [one.shown for one in examples])
        if not all(one.is_read for one in examples):
            batch = uncounted(batch, [not one.is_read for one in examples])
        if self._is_random and self._data.group_size > 1:
            return self._mixed(batch, examples)
        return batch

    def _mixed(self, batch: Batch, examples: list[LabelledImage]) -> Batch:
        assert batch.targets is not None
        inputs_BCHW, shares_BK = mix_pairs(
            batch.inputs,
            batch.targets.values,
            [self._generators(first.epoch, first.index)[2] for first in examples[::2]],
            num_classes=self._objective.num_outputs,
            label_smoothing=self._objective.label_smoothing,
            mixup_alpha=self._data.mixup_alpha,
            cutmix_alpha=self._data.cutmix_alpha,
        )
        targets = replace(batch.targets, values=shares_BK)
        return replace(batch, inputs=inputs_BCHW, clean_inputs=inputs_BCHW, targets=targets)
