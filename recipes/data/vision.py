"""The image data set: reads pictures of a prepared folder, draws their views and masks, and collates them into a Batch. Contains nothing
about ranks and updates. images.py decodes pictures and makes views.

Shapes: B batch, S = N = grid^2 patches of one picture, C colours, H = W = image_size pixels.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from model.batch import Batch, Masks
from model.config import BlockMaskConfig
from model.frontends.config import VisionFrontendConfig
from model.masking import block_mask
from recipes.data.device_views import build_views
from recipes.data.images import (
    RandomView,
    center_view,
    check_views,
    decode_image,
    draw_view,
    reduction_for,
    upright_size,
    view_pixels,
)
from recipes.data.media import BadItem, first_good
from recipes.data.media_folder import open_prepared
from recipes.data.packing import Split
from recipes.data_config import VisionDataConfig

MAX_REPLACEMENTS = 100
"""How many following pictures are tried in place of an undecodable one. If all fail, the run stops."""


@dataclass(frozen=True)
class VisionExample:
    """One picture with the view and the mask of one epoch."""

    image: np.ndarray
    """The view (C, H, W): uint8, or float32 if it is normalised already. With `view`: the whole picture, uint8 (height, width, C)."""
    mask: np.ndarray
    """bool (N,), row-major over the grid. True at patches that are masked for the student, where the loss is taken."""
    view: RandomView | None = None
    """The view that the device is to make; None if `image` is the view."""


def collate_vision(examples: list[VisionExample], size: int = 0) -> Batch:
    """Return the micro-batch of these pictures. Student and teacher read the same pixels, one tensor. The front-end normalises bytes, which
    take a quarter of the memory of floats, and applies the mask.

    `size`: width and height of views that the device is to make. Shapes: inputs (B, C, H, W); pixels of whole pictures if they have views.
    """
    views = [example.view for example in examples if example.view]
    images, unfinished = [example.image for example in examples], None
    if views:
        pixels, unfinished = build_views(images, views, size)
    else:
        pixels = torch.from_numpy(np.stack(images))
    mask_BS = np.stack([example.mask for example in examples])
    return Batch(
        inputs=pixels,
        clean_inputs=pixels,
        masks=Masks.of(torch.from_numpy(mask_BS)),
        padding_mask_BS=None,
        clean_padding_mask_BS=None,
        num_tokens=mask_BS.size,
        unfinished=unfinished,
    )


class VisionDataset:
    """The pictures of one split, addressed by index. The result of example() depends only on (seed, epoch, index). The training split has
    random views, the held-out split always the central view."""

    def __init__(
        self,
        folder: Path,
        split: Split,
        *,
        frontend: VisionFrontendConfig,
        mask: BlockMaskConfig,
        data: VisionDataConfig,
        seed: int,
    ) -> None:
        """`seed`: for views and masks. Use a constant for the held-out split, so that runs with different seeds are evaluated with the same
        masks.

        Raises: ConfigError if the folder is damaged or not a prepared folder, or if the views that `data` describes are impossible.
        """
        check_views(data)
        self._prepared = open_prepared(folder)  # pickled as the folder's name
        self.fingerprint = self._prepared.fingerprint
        self._frontend, self._mask, self._data = frontend, mask, data
        self._split = split
        self._entropy = (seed, ("train", "valid").index(split))
        self._bad: list[BadItem] = []

    def __len__(self) -> int:
        return len(self._items)

    def order(self, rng: np.random.Generator) -> None:
        """Return None: all indices, shuffled."""

    def example(self, epoch: int, index: int, group: tuple[int, ...]) -> VisionExample:
        """Return picture `index` with the view and the mask of this epoch. `group` is ignored.

        A picture that cannot be decoded is replaced by the next one of the split that can. View and mask keep the random numbers of
        the replaced picture. take_bad() lists the replaced pictures.

        Raises: ConfigError if the next hundred pictures cannot be decoded either.
        """
        # Two child seeds, so that the mask does not depend on how the view is drawn, nor the view on the mask.
        view_seed, mask_seed = np.random.SeedSequence((*self._entropy, epoch, index)).spawn(2)
        read = partial(self._read, view_seed)
        (image, view), _, bad = first_good(self._prepared.media, self._candidates(index), read)
        self._bad += bad
        return VisionExample(image, block_mask(self._frontend.grid, self._mask, np.random.Generator(np.random.Philox(mask_seed))), view)

    def _read(self, seed: np.random.SeedSequence, content: bytes) -> tuple[np.ndarray, RandomView | None]:
        """Return the view of an image file; or the whole picture and the view that the device is to make. Raises: UndecodableError."""
        size, data = self._frontend.image_size, self._data
        if self._split != "train":
            return center_view(decode_image(content), size), None
        rng = np.random.Generator(np.random.Philox(seed))
        if data.draft_decoding:
            whole = upright_size(content)
            view = draw_view(*whole, data, rng)
            image = decode_image(content, reduction_for(view, size))
            view = view.scaled(whole, image.size)
        else:
            image = decode_image(content)
            view = draw_view(*image.size, data, rng)
        return (np.asarray(image), view) if data.views_on == "device" else (view_pixels(image, view, size), None)

    def collate(self, examples: list[VisionExample]) -> Batch:
        """Return the micro-batch of these pictures."""
        return collate_vision(examples, self._frontend.image_size)

    def take_bad(self) -> list[BadItem]:
        """Return the pictures that example() could not decode in this process since the last call, and clear the list. Each failure is one
        entry."""
        bad, self._bad = self._bad, []
        return bad

    @property
    def _items(self) -> np.ndarray:
        return self._prepared.splits[self._split]

    def _candidates(self, index: int) -> list[int]:
        following = np.arange(index, index + min(MAX_REPLACEMENTS + 1, len(self))) % len(self)
        return self._items[following].tolist()
