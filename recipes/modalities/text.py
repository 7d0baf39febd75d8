"""Text: tokens of a vocabulary, masked before they are embedded. torch is imported only in methods that need it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from model.config import TokenMaskConfig
from model.frontends.config import TextFrontendConfig
from recipes import text
from recipes.config import Recipe
from recipes.data_config import DataConfig, TextDataConfig
from recipes.errors import ConfigError
from recipes.labelled_config import LabelledTextDataConfig
from recipes.modalities.base import LabelledSource
from recipes.modalities.labelled_text import LabelledTextSource
from recipes.settings import Kinds

if TYPE_CHECKING:
    import numpy as np

    from model.batch import Batch
    from model.trunk import FrontendBuilder
    from recipes.data.examples import TextMaker
    from recipes.data.items import Items
    from recipes.data.labelled import Labelled
    from recipes.data.packed_text import PackedTextDataset
    from recipes.data.text import TextDataset
    from recipes.data.tokenizer import StoredTokenizer

MASK_TOKENS = 1
"""Number of mask symbols: `<mask>` is the last symbol of the vocabulary."""


class Text:
    """All that is specific to the modality text: its recipes, checks, data, front-end and probes. Implements Modality (base.py)."""

    recipes = text.RECIPES
    kinds: ClassVar[Kinds] = {
        "frontend": (TextFrontendConfig,),
        "mask": (TokenMaskConfig,),
        "data": (TextDataConfig, LabelledTextDataConfig),
    }
    labelled: ClassVar[Mapping[type[DataConfig], LabelledSource]] = {LabelledTextDataConfig: LabelledTextSource()}
    probes = ("cloze", "classify")
    benchmark_length = 512
    cls_name = "<s>"

    def check(self, recipe: Any) -> None:
        """Check a text recipe. Raises: ConfigError if masks leave no <mask> for the loss or are longer than a sample, if a sample has more
        tokens than the front-end has positions, or if something of the recipe has no exact counterpart in packed rows."""
        mask, frontend, data = recipe.mask, recipe.frontend, recipe.data
        if mask.leave_unmasked_prob + mask.random_token_prob >= 1 and not mask.loss_on_all_selected:
            raise ConfigError(
                f"mask.leave_unmasked_prob {mask.leave_unmasked_prob} + mask.random_token_prob {mask.random_token_prob} leave no <mask> "
                "for the loss to read; lower one"
            )
        if mask.length > data.sequence_length:
            raise ConfigError(
                f"mask.length {mask.length} is more than data.sequence_length {data.sequence_length}; "
                f"use --set mask.length={min(4, data.sequence_length)} (published: 4) or longer sequences"
            )
        if frontend.max_positions < data.sequence_length:
            raise ConfigError(
                f"frontend.max_positions {frontend.max_positions} is less than data.sequence_length {data.sequence_length}; "
                f"use --set frontend.max_positions={data.sequence_length} or a shorter sequence"
            )
        if data.packing == "documents":
            _check_packing(recipe)

    def check_data(self, recipe: Any, path: Path) -> str:
        """If `path` is a prepared folder, check that it fits the recipe, and return "". Otherwise check that data.path names text, and
        return a line that says what is read. Raises: ConfigError if the data do not fit."""
        from recipes.data.prepare import check_fits
        from recipes.data.shards import is_prepared
        from recipes.data.source import open_source

        if is_prepared(path):
            check_fits(path, recipe.data, recipe.frontend)
            return ""
        return open_source(recipe.data).note

    def prepare(self, recipe: Any, out_dir: Path, **options: Any) -> Path:
        """Return the prepared folder for the recipe's text: tokenizer, tokens, splits and samples. Raises: ConfigError."""
        from recipes.data.prepare import prepare_text

        return prepare_text(recipe.data, recipe.frontend, out_dir, **options)

    def open_data(self, recipe: Any, prepared: Path) -> "tuple[TextDataset, TextDataset] | tuple[PackedTextDataset, PackedTextDataset]":
        """Return (training samples, held-out samples) of a prepared folder, or their packed rows. Raises: ConfigError if it is damaged."""
        from recipes.data.heldout import EVAL_MASK_SEED
        from recipes.data.packed_text import PackedTextDataset
        from recipes.data.text import TextDataset

        train = TextDataset(prepared, "train", mask=recipe.mask, seed=recipe.run.seed)
        heldout = TextDataset(prepared, "valid", mask=recipe.mask, seed=EVAL_MASK_SEED)
        if recipe.data.packing == "documents":
            return PackedTextDataset(train), PackedTextDataset(heldout)
        return train, heldout

    def values(self, recipe: Any, prepared: Path) -> Mapping[str, Any]:
        """Return {}: no setting follows from data without labels."""
        return {}

    def open_labelled(self, recipe: Any, path: str | None, split: str, label_column: str, prepared: Path) -> "Labelled":
        """Open a split of labelled sentences, which are tokenized with the run's own tokenizer (in `prepared`) and padded to the longest of
        their batch."""
        from recipes.data.labelled import labelled_text
        from recipes.data.tokenizer import stored_tokenizer

        return labelled_text(recipe.data, path, split, label_column, self.build_maker(recipe, partial(stored_tokenizer, prepared)))

    def build_maker(self, recipe: Any, tokenizer: "Callable[[], StoredTokenizer]") -> "TextMaker":
        """Return the maker of examples of texts, with the tokenizer that `tokenizer` reads. A text is cut at the recipe's length."""
        from recipes.data.examples import TextMaker

        return TextMaker(min(recipe.data.sequence_length, recipe.frontend.max_positions), tokenizer())

    def open_items(self, recipe: Any, maker: "TextMaker", path: str | None, split: str | None, column: str | None) -> "Items":
        """Open texts for embeddings: each line of .txt files, or each row of tables."""
        from recipes.data.items import open_texts

        return open_texts(recipe.data, maker, path, split, column)

    def build_frontend(self, recipe: Any) -> "FrontendBuilder":
        """Return the function that builds the text front-end, which embeds token ids."""
        from model.frontends.text import TextFrontend

        return partial(TextFrontend, recipe.frontend)

    def resized(self, recipe: Any, length: int) -> Recipe:
        """Return the recipe changed to sequences of this length, in tokens."""
        frontend = replace(recipe.frontend, max_positions=max(length, recipe.frontend.max_positions))
        return replace(recipe, frontend=frontend, data=replace(recipe.data, sequence_length=length))

    def random_batch(self, recipe: Any, size: int, length: int, rng: "np.random.Generator") -> "Batch":
        """Return a micro-batch of `size` sequences of `length` uniformly random tokens with masks, without padding."""
        from model.masking import NUM_SPECIAL_TOKENS, token_mask
        from recipes.data.text import TextExample, collate_text

        vocab_size, examples = recipe.frontend.vocab_size, []
        for _ in range(size):
            clean_T = rng.integers(NUM_SPECIAL_TOKENS, vocab_size - MASK_TOKENS, length)
            examples.append(TextExample(clean_T, *token_mask(clean_T, recipe.mask, rng, vocab_size=vocab_size)))
        return collate_text(examples, length)


def _check_packing(recipe: Any) -> None:
    """Check that samples that share a row can be trained on as in rows of their own. Raises: ConfigError."""
    over_time = [norm for norm in (*recipe.teacher.layer_norms, *recipe.teacher.average_norms) if norm != "layer"]
    if recipe.data.break_mode != "complete_doc":
        raise ConfigError(
            f"data.packing documents with data.break_mode {recipe.data.break_mode}: its samples fill their rows and cross documents; "
            "use --set data.break_mode=complete_doc or --set data.packing=padded"
        )
    if over_time:
        raise ConfigError(
            f"data.packing documents with targets normalised over time (teacher norm {over_time[0]}): its statistics would mix the samples "
            "of a row; use --set teacher.layer_norms=layer --set teacher.average_norms= or --set data.packing=padded"
        )
    if recipe.model.block.drop_path:
        raise ConfigError(
            f"data.packing documents with model.block.drop_path {recipe.model.block.drop_path}: all samples of a row are dropped together; "
            "use --set model.block.drop_path=0 or --set data.packing=padded"
        )
