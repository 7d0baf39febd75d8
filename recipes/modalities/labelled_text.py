"""Labelled texts, for fine-tuning. torch is imported only in methods that need it. Implements LabelledSource (base.py)."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.errors import ConfigError
from recipes.modalities.labelled import LabelledSplits

if TYPE_CHECKING:
    from recipes.data.loader import Dataset


class LabelledTextSource(LabelledSplits):
    """The data of fine-tuning on text."""

    def check(self, recipe: Any) -> None:
        """Check a recipe for labelled texts. Raises: ConfigError if a sample has more tokens than the front-end has positions, or if not
        one or two columns of text are named."""
        super().check(recipe)
        data, frontend = recipe.data, recipe.frontend
        if not 1 <= len(data.text_columns) <= 2:
            raise ConfigError(
                f"data.text_columns names {len(data.text_columns)} columns; name one, or two for pairs: --set data.text_columns=a,b"
            )
        if frontend.max_positions < data.sequence_length:
            raise ConfigError(
                f"data.sequence_length {data.sequence_length} is more than frontend.max_positions {frontend.max_positions} of the network; "
                f"use --set data.sequence_length={frontend.max_positions}"
            )

    def check_data(self, recipe: Any, path: Path) -> str:
        """Check that the data at `path` are prepared for the recipe, or have the training split with its columns, and return "". Raises:
        ConfigError if they do not."""
        from recipes.data.labelled_prepare import check_has_labels, find_prepared_labelled
        from recipes.data.labelled_text_reader import LabelledTextReader, check_tokenizer
        from recipes.data.shards import is_prepared

        if is_prepared(path):
            given = Path(recipe.data.tokenizer).expanduser() if recipe.data.tokenizer else None
            check = partial(check_tokenizer, tokenizer=given, vocab_size=recipe.frontend.vocab_size)
            find_prepared_labelled(recipe, path, check)
        else:
            check_has_labels(LabelledTextReader(recipe, None).read(recipe.data.split), recipe.data)
        return ""

    def prepare(self, recipe: Any, out_dir: Path, *, log: Any = lambda line: None, run: Any = None, **options: Any) -> Path:
        """Return the prepared folder for the recipe's labelled texts: tokenizer, tokens and targets. Raises: ConfigError."""
        from recipes.data.labelled_prepare import prepare_labelled
        from recipes.data.labelled_text_reader import LabelledTextReader, check_tokenizer
        from recipes.data.prepare import tokenizer_of_run

        tokenizer = tokenizer_of_run(recipe.data, run)
        check = partial(check_tokenizer, tokenizer=tokenizer, vocab_size=recipe.frontend.vocab_size)
        return prepare_labelled(recipe, out_dir, partial(LabelledTextReader, tokenizer=tokenizer, log=log), log, check_fits=check)

    def open_split(self, recipe: Any, prepared: Path, split: str) -> "Dataset":
        """Return the samples of a split of a prepared folder, without augmentation unless it is the training split."""
        from recipes.data.labelled_text_data import LabelledTextDataset

        return LabelledTextDataset(prepared, split, batch_size=recipe.run.global_batch_size)
