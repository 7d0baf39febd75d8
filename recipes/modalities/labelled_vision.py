"""Labelled images, for fine-tuning. torch is imported only in methods that need it. Implements LabelledSource (base.py)."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.modalities.labelled import LabelledSplits
from recipes.supervised_config import ClassifyConfig

if TYPE_CHECKING:
    from recipes.data.loader import Dataset


class LabelledVisionSource(LabelledSplits):
    """The data of fine-tuning on images."""

    def check(self, recipe: Any) -> None:
        """Check a recipe for labelled images. Raises: ConfigError if patches do not fill the image, if the objective is no classification,
        if images are mixed in pairs and the batch is odd, or if an augmentation needs torchvision, which cannot be imported."""
        super().check(recipe)
        from recipes.data.augment import check_augmentation
        from recipes.data.images import check_crop_scale

        data, frontend, total = recipe.data, recipe.frontend, recipe.run.global_batch_size
        if frontend.image_size % frontend.patch_size:
            raise ConfigError(
                f"frontend.image_size {frontend.image_size} is no whole number of patches of frontend.patch_size {frontend.patch_size}; "
                f"use --set frontend.image_size={max(2, frontend.grid) * frontend.patch_size}"
            )
        if not isinstance(recipe.objective, ClassifyConfig):
            raise ConfigError(f"objective {recipe.objective.kind}: labelled images are for classification; --task classify")
        if total % data.group_size:
            raise ConfigError(
                f"run.global_batch_size {total} is odd, and images are mixed in pairs; --set run.global_batch_size={total + 1}, or do not "
                "mix: --set data.mixup_alpha=0 --set data.cutmix_alpha=0"
            )
        check_crop_scale(data.crop_scale)
        check_augmentation(data)

    def check_data(self, recipe: Any, path: Path) -> str:
        """If `path` is a prepared folder, check that it fits the recipe, and return "". Otherwise check that data.path names images with a
        training split and labels, and return a line that says what is read. Raises: ConfigError if the data do not fit."""
        from recipes.data.labelled_prepare import check_has_labels, find_prepared_labelled
        from recipes.data.labelled_vision_reader import LabelledVisionReader
        from recipes.data.shards import is_prepared

        if is_prepared(path):
            find_prepared_labelled(recipe, path)
            return ""
        lines = list[str]()
        reader = LabelledVisionReader(recipe, lines.append)
        check_has_labels(reader.read(recipe.data.split), recipe.data)
        return "; ".join(lines)

    def prepare(self, recipe: Recipe, out_dir: Path, *, log: Any = lambda line: None, num_processes: int | None = None, **_: Any) -> Path:
        """Return the prepared folder for the recipe's labelled images: a list of them, and their targets. Raises: ConfigError."""
        from recipes.data.labelled_prepare import prepare_labelled
        from recipes.data.labelled_vision_reader import LabelledVisionReader

        return prepare_labelled(recipe, out_dir, partial(LabelledVisionReader, log=log, num_processes=num_processes), log)

    def open_split(self, recipe: Any, prepared: Path, split: str) -> "Dataset":
        """Return the samples of a split of a prepared folder, without augmentation unless it is the training split. Raises: ConfigError."""
        from recipes.data.labelled_vision_data import LabelledVisionDataset

        sections = {"frontend": recipe.frontend, "data": recipe.data, "objective": recipe.objective}
        return LabelledVisionDataset(prepared, split, **sections, seed=recipe.run.seed)
