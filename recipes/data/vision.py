"""The image data set: a prepared folder's pictures, their views, their masks, and their way into a Batch. Knows nothing of ranks and
updates; how a picture is decoded and changed is in images.py.

Shapes: B batch, S = N = grid^2 patches of one picture, C colours, H = W = image_size pixels.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model.batch import Batch, Masks
from model.config import BlockMaskConfig
from model.frontends.config import VisionFrontendConfig
from model.masking import block_mask
from recipes.config import VisionDataConfig
from recipes.data.images import center_view, check_views, decode_image, random_view
from recipes.data.media import BadItem, first_good
from recipes.data.media_folder import open_prepared
from recipes.data.packing import Split

MAX_REPLACEMENTS = 100
"""Neighbours that are tried in an undecodable picture's place, before the data is taken to be gone."""


@dataclass(frozen=True)
class VisionExample:
    """One picture as one epoch sees it."""

    image: np.ndarray
    """float32 (C, H, W), normalised."""
    mask: np.ndarray
    """bool (N,), row-major over the grid, True where the student does not see and the loss is taken."""


def collate_vision(examples: list[VisionExample]) -> Batch:
    """One micro-batch. Student and teacher read the same pixels, one tensor; the front-end places the mask.

    Shapes: inputs (B, C, H, W).
    """
    pixels_BCHW = torch.from_numpy(np.stack([example.image for example in examples]))
    mask_BS = np.stack([example.mask for example in examples])
    return Batch(
        inputs=pixels_BCHW,
        clean_inputs=pixels_BCHW,
        masks=Masks.of(torch.from_numpy(mask_BS)),
        padding_mask_BS=None,
        clean_padding_mask_BS=None,
        num_tokens=mask_BS.size,
    )


class VisionDataset:
    """The pictures of one split, addressed by index; what example() returns is a function of (seed, epoch, index) alone. The training
    split is seen through random views, the held-out one always through the central view."""

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
        """`seed` is that of views and masks; give the held-out split a constant, so that runs with other seeds are judged by the same
        masks.

        Raises: ConfigError if the folder is damaged or no prepared folder, or if `data` asks for impossible views.
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

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Indices of one epoch as they are read: every one, in random order."""
        return rng.permutation(len(self))

    def example(self, epoch: int, index: int, group: tuple[int, ...]) -> VisionExample:
        """Picture `index` with the view and the mask of that epoch; `group` does not matter.

        The next picture of the split that can be decoded takes the place of one that cannot, with the view's and the mask's random
        numbers of the one it replaces; take_bad() tells.
        Raises: ConfigError if a hundred in a row cannot be decoded.
        """
        image, _, bad = first_good(self._prepared.media, self._candidates(index), decode_image)
        self._bad += bad
        # Children of their own, so that neither another view changes the mask nor another mask the view.
        view_seed, mask_seed = np.random.SeedSequence((*self._entropy, epoch, index)).spawn(2)
        size = self._frontend.image_size
        if self._split == "train":
            view_CHW = random_view(image, size, self._data, np.random.Generator(np.random.Philox(view_seed)))
        else:
            view_CHW = center_view(image, size)
        return VisionExample(view_CHW, block_mask(self._frontend.grid, self._mask, np.random.Generator(np.random.Philox(mask_seed))))

    def collate(self, examples: list[VisionExample]) -> Batch:
        """One micro-batch."""
        return collate_vision(examples)

    def take_bad(self) -> list[BadItem]:
        """Undecodable pictures that example() met since the last call, in this process; one for each time it was met."""
        bad, self._bad = self._bad, []
        return bad

    @property
    def _items(self) -> np.ndarray:
        return self._prepared.splits[self._split]

    def _candidates(self, index: int) -> list[int]:
        following = np.arange(index, index + min(MAX_REPLACEMENTS + 1, len(self))) % len(self)
        return self._items[following].tolist()
