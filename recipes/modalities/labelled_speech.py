"""Labelled recordings, for fine-tuning. torch is imported only in methods that need it. Implements LabelledSource (base.py)."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.frontends.speech_config import SpeechFrontendConfig
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.modalities.labelled import LabelledSplits
from recipes.supervised_config import CtcConfig

if TYPE_CHECKING:
    from recipes.data.loader import Dataset


class LabelledSpeechSource(LabelledSplits):
    """The data of fine-tuning on recordings."""

    def check(self, recipe: Any) -> None:
        """Check a recipe for labelled recordings. Raises: ConfigError if the convolutions and the longest recording give no frame, or if
        a masked span has more channels than there are."""
        super().check(recipe)
        data, frontend, width = recipe.data, recipe.frontend, recipe.model.hidden_size
        if not frontend.conv_kernels or len(frontend.conv_kernels) != len(frontend.conv_strides):
            raise ConfigError(
                f"frontend.conv_kernels has {len(frontend.conv_kernels)} values, frontend.conv_strides "
                f"{len(frontend.conv_strides)}; one each"
            )
        if width % frontend.pos_conv_groups:
            raise ConfigError(f"model.hidden_size {width} is not a multiple of frontend.pos_conv_groups {frontend.pos_conv_groups}")
        if not frontend.num_frames(int(data.max_seconds * data.sample_rate)):
            raise ConfigError(
                f"data.max_seconds {data.max_seconds:g} at data.sample_rate {data.sample_rate} is less than one frame of "
                f"{frontend.receptive_field} samples; --set data.max_seconds higher"
            )
        if data.channel_mask_prob and data.channel_mask_length > width:
            raise ConfigError(
                f"data.channel_mask_length {data.channel_mask_length} is more than model.hidden_size {width}; use --set "
                f"data.channel_mask_length={max(1, width // 12)}, the published share of the channels"
            )

    def check_data(self, recipe: Any, path: Path) -> str:
        """If `path` is a prepared folder, check that it fits the recipe, and return "". Otherwise check that it has the training split with
        labels, and return a line that says what is read. Raises: ConfigError if the data do not fit."""
        from recipes.data.labelled_prepare import RawSplit, check_has_labels, find_prepared_labelled
        from recipes.data.labelled_speech_reader import open_recordings
        from recipes.data.media_labels import labels_of
        from recipes.data.shards import is_prepared

        data = recipe.data
        if is_prepared(path):
            find_prepared_labelled(recipe, path)
            return ""
        media = open_recordings(str(path), data.split, data.column, data.label_column)
        labels = labels_of(media, data.label_column, may_be_folders=not isinstance(recipe.objective, CtcConfig))
        check_has_labels(RawSplit(data.split, (), labels.cells, labels.class_names, media.columns, labels.exist), data)
        return media.note

    def prepare(
        self, recipe: Recipe, out_dir: Path, *, log: Any = lambda line: None, num_processes: int | None = None, **options: Any
    ) -> Path:
        """Return the prepared folder for the recipe's labelled recordings: their places, lengths and targets. `log` gets a line if the
        network computes something else for a padded recording than for one alone. Raises: ConfigError."""
        from recipes.data.labelled_prepare import prepare_labelled
        from recipes.data.labelled_speech_reader import LabelledSpeechReader

        assert isinstance(recipe.frontend, SpeechFrontendConfig)
        if inexact := inexact_padding(recipe.frontend):
            log(f"padding is not exact: {inexact}")
        return prepare_labelled(recipe, out_dir, partial(LabelledSpeechReader, log=log, num_processes=num_processes), log)

    def open_split(self, recipe: Any, prepared: Path, split: str) -> "Dataset":
        """Return the samples of a split of a prepared folder, with masks and random crops only if it is the training split."""
        from recipes.data.labelled_speech_data import LabelledSpeechDataset

        return LabelledSpeechDataset(
            prepared,
            split,
            frontend=recipe.frontend,
            data=recipe.data,
            hidden_size=recipe.model.hidden_size,
            batch_size=recipe.run.global_batch_size,
            seed=recipe.run.seed,
        )


def inexact_padding(frontend: SpeechFrontendConfig) -> str:
    """Return why a recording that is padded in its batch gives other outputs than alone, for a line of the log; "" if it gives the same."""
    reasons = []
    if frontend.pos_conv_depth > 1 and not frontend.exact_padding:
        reasons.append("frontend.exact_padding is false, so a few frames next to padding differ")
    if frontend.extractor_norm == "group" and not frontend.exact_statistics:
        reasons.append("frontend.exact_statistics is false, so the extractor's norm over time includes padding")
    return "; ".join(reasons)
