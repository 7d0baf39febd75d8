"""Vision: square images, embedded and masked as patches. torch is imported only in methods that need it."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from model.config import BlockMaskConfig
from model.frontends.config import VisionFrontendConfig
from recipes import vision
from recipes.config import Recipe
from recipes.data_config import DataConfig, VisionDataConfig
from recipes.errors import ConfigError
from recipes.labelled_config import LabelledVisionDataConfig
from recipes.modalities.base import LabelledSource
from recipes.modalities.labelled_vision import LabelledVisionSource
from recipes.modalities.media import check_items, open_splits
from recipes.settings import Kinds

if TYPE_CHECKING:
    import numpy as np

    from model.batch import Batch
    from model.trunk import FrontendBuilder
    from recipes.data.examples import ImageMaker
    from recipes.data.items import Items
    from recipes.data.labelled import Labelled
    from recipes.data.tokenizer import StoredTokenizer
    from recipes.data.vision import VisionDataset


class Vision:
    """All that is specific to the modality vision: its recipes, checks, data, front-end and probe. Implements Modality (base.py)."""

    recipes = vision.RECIPES
    kinds: ClassVar[Kinds] = {
        "frontend": (VisionFrontendConfig,),
        "mask": (BlockMaskConfig,),
        "data": (VisionDataConfig, LabelledVisionDataConfig),
    }
    labelled: ClassVar[Mapping[type[DataConfig], LabelledSource]] = {LabelledVisionDataConfig: LabelledVisionSource()}
    probes = ("classify",)
    benchmark_length = 0
    cls_name = "CLS"

    def check(self, recipe: Any) -> None:
        """Check a vision recipe. Raises: ConfigError if patches do not fill the image, if a mask leaves no patch visible, if mask.min_block
        is too large, or if crop_scale is not in ascending order."""
        frontend, mask, crop_scale = recipe.frontend, recipe.mask, recipe.data.crop_scale
        if frontend.image_size % frontend.patch_size or frontend.grid < 2:
            raise ConfigError(
                f"frontend.image_size {frontend.image_size} is not 2 or more whole patches of frontend.patch_size {frontend.patch_size}; "
                f"use --set frontend.image_size={max(2, frontend.grid) * frontend.patch_size}"
            )
        if mask.num_patches >= frontend.grid**2:
            raise ConfigError(
                f"mask.num_patches {mask.num_patches} of {frontend.grid**2} patches leaves none to see; "
                f"use --set mask.num_patches={int(0.6 * frontend.grid**2)} or fewer"
            )
        largest = min(mask.num_patches, mask.max_block, (frontend.grid - 1) ** 2)
        if mask.min_block > largest:
            raise ConfigError(
                f"mask.min_block {mask.min_block} is more than a block can have: mask.num_patches {mask.num_patches}, mask.max_block "
                f"{mask.max_block}, {(frontend.grid - 1) ** 2} in {frontend.grid} x {frontend.grid} patches with one row and column free; "
                f"use --set mask.min_block={largest} or less"
            )
        if crop_scale[0] > crop_scale[1]:
            raise ConfigError(
                f"data.crop_scale is {crop_scale}, from large to small; use --set data.crop_scale={crop_scale[1]},{crop_scale[0]}"
            )

    def check_data(self, recipe: Any, path: Path) -> str:
        """If `path` is a prepared folder, check that it fits the recipe, and return "". Otherwise check that data.path names images, and
        return a line that says what is read. Raises: ConfigError if the data do not fit."""
        from recipes.data.images import IMAGES

        return check_items(recipe, path, IMAGES, self.prepare)

    def prepare(self, recipe: Any, out_dir: Path, **options: Any) -> Path:
        """Return the prepared folder for the recipe's images: a list of them. Raises: ConfigError."""
        from recipes.data.vision_folder import prepare_vision

        return prepare_vision(recipe.data, out_dir, **options)

    def open_data(self, recipe: Any, prepared: Path) -> "tuple[VisionDataset, VisionDataset]":
        """Return (training images, held-out images) of a prepared folder. Raises: ConfigError if it is damaged."""
        from recipes.data.vision import VisionDataset

        return open_splits(VisionDataset, recipe, prepared)

    def values(self, recipe: Any, prepared: Path) -> Mapping[str, Any]:
        """Return {}: no setting follows from data without labels."""
        return {}

    def open_labelled(self, recipe: Any, path: str | None, split: str, label_column: str, prepared: Path) -> "Labelled":
        """Open a split of labelled images, which are read as their central views. `prepared` is not used."""
        from recipes.data.labelled import labelled_images

        return labelled_images(recipe.data, recipe.frontend, path, split, label_column)

    def build_maker(self, recipe: Any, tokenizer: "Callable[[], StoredTokenizer]") -> "ImageMaker":
        """Return the maker of examples of images, each its central view. `tokenizer` is not called."""
        from recipes.data.examples import ImageMaker

        return ImageMaker(recipe.frontend)

    def open_items(self, recipe: Any, maker: "ImageMaker", path: str | None, split: str | None, column: str | None) -> "Items":
        """Open images for embeddings."""
        from recipes.data.examples import Made
        from recipes.data.images import IMAGES, decode_image
        from recipes.data.items import open_recordings_or_images
        from recipes.data.media import Media

        def make(media: Media, index: int) -> Made:
            return Made(maker.of_image(decode_image(media.read(index))))

        return open_recordings_or_images(IMAGES, make, path, split, column or recipe.data.column)

    def build_frontend(self, recipe: Any) -> "FrontendBuilder":
        """Return the function that builds the vision front-end: embedded patches of the image, with a CLS vector in front."""
        from model.frontends.vision import VisionFrontend

        return partial(VisionFrontend, recipe.frontend)

    def resized(self, recipe: Any, length: int) -> Recipe:
        """Return the recipe unchanged, because all images have the recipe's size. Raises: ConfigError unless `length` is 0."""
        if length:
            raise ConfigError(f"--length {length}: images have the recipe's size; leave it out")
        return recipe

    def random_batch(self, recipe: Any, size: int, length: int, rng: "np.random.Generator") -> "Batch":
        """Return a micro-batch of `size` images of noise with block masks. `length` is not used."""
        import numpy as np

        from model.masking import block_mask
        from recipes.data.vision import VisionExample, collate_vision

        frontend = recipe.frontend
        shape = (frontend.num_channels, frontend.image_size, frontend.image_size)
        masks = [block_mask(frontend.grid, recipe.mask, rng) for _ in range(size)]
        return collate_vision([VisionExample(rng.standard_normal(shape, dtype=np.float32), mask) for mask in masks])
