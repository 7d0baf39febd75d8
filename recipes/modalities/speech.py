"""Speech: waveforms, embedded by convolutions and masked as frames. torch is imported only in methods that need it."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from model.config import SpanMaskConfig
from model.frontends.speech_config import SpeechFrontendConfig
from recipes import speech
from recipes.config import Recipe
from recipes.data_config import DataConfig, SpeechDataConfig
from recipes.errors import ConfigError
from recipes.labelled_config import LabelledSpeechDataConfig
from recipes.modalities.base import LabelledSource
from recipes.modalities.labelled_speech import LabelledSpeechSource
from recipes.modalities.media import check_items, open_splits
from recipes.settings import Kinds

if TYPE_CHECKING:
    import numpy as np

    from model.batch import Batch
    from model.trunk import FrontendBuilder
    from recipes.data.examples import SpeechMaker
    from recipes.data.items import Items
    from recipes.data.labelled import Labelled
    from recipes.data.speech import SpeechDataset
    from recipes.data.tokenizer import StoredTokenizer


class Speech:
    """All that is specific to the modality speech: its recipes, checks, data, front-end and probe. Implements Modality (base.py)."""

    recipes = speech.RECIPES
    kinds: ClassVar[Kinds] = {
        "frontend": (SpeechFrontendConfig,),
        "mask": (SpanMaskConfig,),
        "data": (SpeechDataConfig, LabelledSpeechDataConfig),
    }
    labelled: ClassVar[Mapping[type[DataConfig], LabelledSource]] = {LabelledSpeechDataConfig: LabelledSpeechSource()}
    probes = ("classify",)
    benchmark_length = 10
    cls_name = None

    def check(self, recipe: Any) -> None:
        """Check a speech recipe. Raises: ConfigError if convolutions, lengths, masks or groups do not fit together."""
        from recipes.data.speech_folder import check_mask

        frontend, data, width, total = recipe.frontend, recipe.data, recipe.model.hidden_size, recipe.run.global_batch_size
        if not frontend.conv_kernels:
            raise ConfigError("frontend.conv_kernels is empty; the published ones are 10,3,3,3,3,2,2, with strides 5,2,2,2,2,2,2")
        if len(frontend.conv_kernels) != len(frontend.conv_strides):
            raise ConfigError(
                f"frontend.conv_kernels has {len(frontend.conv_kernels)} values, frontend.conv_strides "
                f"{len(frontend.conv_strides)}; one each"
            )
        if width % frontend.pos_conv_groups:
            raise ConfigError(
                f"model.hidden_size {width} is not a multiple of frontend.pos_conv_groups {frontend.pos_conv_groups}; "
                f"use --set frontend.pos_conv_groups={math.gcd(width, frontend.pos_conv_groups)}"
            )
        if data.max_seconds < data.min_seconds:
            raise ConfigError(f"data.max_seconds {data.max_seconds:g} is less than data.min_seconds {data.min_seconds:g}; swap them")
        self._check_frames(recipe)
        check_mask(data, frontend, recipe.mask)
        if total % data.group_size:
            raise ConfigError(
                f"run.global_batch_size {total} is not a multiple of data.group_size {data.group_size}; "
                f"use --set data.group_size={math.gcd(total, data.group_size)} or another batch"
            )

    def _check_frames(self, recipe: Any) -> None:
        data, length = recipe.data, recipe.mask.length
        frames = recipe.frontend.num_frames(int(data.max_seconds * data.sample_rate))
        if frames <= length:
            raise ConfigError(
                f"mask.length {length} leaves none of the {frames} frames to see that data.max_seconds {data.max_seconds:g} at "
                f"data.sample_rate {data.sample_rate} gives; raise data.max_seconds or lower mask.length"
            )

    def check_data(self, recipe: Any, path: Path) -> str:
        """If `path` is a prepared folder, check that it fits the recipe, and return "". Otherwise check that data.path names recordings,
        and return a line that says what is read. Raises: ConfigError if the data do not fit."""
        from recipes.data.audio import AUDIO

        return check_items(recipe, path, AUDIO, self.prepare)

    def prepare(self, recipe: Any, out_dir: Path, **options: Any) -> Path:
        """Return the prepared folder for the recipe's recordings: a list of them with their lengths. Raises: ConfigError."""
        from recipes.data.speech_folder import prepare_speech

        return prepare_speech(recipe.data, recipe.frontend, out_dir, **options)

    def open_data(self, recipe: Any, prepared: Path) -> "tuple[SpeechDataset, SpeechDataset]":
        """Return (training recordings, held-out recordings) of a prepared folder. Raises: ConfigError if it is damaged."""
        from recipes.data.speech import SpeechDataset

        return open_splits(SpeechDataset, recipe, prepared)

    def values(self, recipe: Any, prepared: Path) -> Mapping[str, Any]:
        """Return {}: no setting follows from data without labels."""
        return {}

    def open_labelled(self, recipe: Any, path: str | None, split: str, label_column: str, prepared: Path) -> "Labelled":
        """Open a split of labelled recordings, which are read whole, one per batch. `prepared` is not used."""
        from recipes.data.labelled import labelled_speech

        return labelled_speech(recipe.data, recipe.frontend, path, split, label_column)

    def build_maker(self, recipe: Any, tokenizer: "Callable[[], StoredTokenizer]") -> "SpeechMaker":
        """Return the maker of examples of whole recordings. `tokenizer` is not called."""
        from recipes.data.examples import SpeechMaker

        return SpeechMaker(recipe.frontend, recipe.data.sample_rate)

    def open_items(self, recipe: Any, maker: "SpeechMaker", path: str | None, split: str | None, column: str | None) -> "Items":
        """Open recordings for embeddings."""
        from recipes.data.audio import AUDIO, read_audio
        from recipes.data.examples import Made
        from recipes.data.items import open_recordings_or_images
        from recipes.data.media import Media

        def make(media: Media, index: int) -> Made:
            return Made(maker.of_waveform(read_audio(media, index, maker.sample_rate)))

        return open_recordings_or_images(AUDIO, make, path, split, column or recipe.data.column)

    def build_frontend(self, recipe: Any) -> "FrontendBuilder":
        """Return the function that builds the speech front-end: convolutional features of the waveform, with positions."""
        from model.frontends.speech import SpeechFrontend

        return partial(SpeechFrontend, recipe.frontend)

    def resized(self, recipe: Any, length: int) -> Recipe:
        """Return the recipe unchanged: recordings may have any length. `length` is in seconds."""
        return recipe

    def random_batch(self, recipe: Any, size: int, length: int, rng: "np.random.Generator") -> "Batch":
        """Return a micro-batch of `size` recordings of noise, each `length` seconds long. All have the same number of masked frames."""
        import numpy as np

        from model.masking import span_mask, unmask_to
        from recipes.data.speech import SpeechExample, collate_speech

        num_samples = length * recipe.data.sample_rate
        masks = [span_mask(recipe.frontend.tokens_per_sample(num_samples), recipe.mask, rng) for _ in range(size)]
        fewest = min(int(mask.sum()) for mask in masks)
        examples = [SpeechExample(rng.standard_normal(num_samples, dtype=np.float32), unmask_to(mask, fewest, rng)) for mask in masks]
        return collate_speech(examples, recipe.frontend)
