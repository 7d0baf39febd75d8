"""The tokenizer of an imported text model: read from the source or from --tokenizer, or left out with a note that says why. Its ids must be
the rows of the model's embeddings as they are, so a tokenizer that would have to be renumbered is of no use here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from recipes.data import tokenizer_json
from recipes.data.tokenizer import FILES, MODEL, TokenizerFile, read_tokenizer
from recipes.errors import ConfigError

TOKENIZER_FILES = (*FILES, "vocab.json", "vocab.txt", "merges.txt", "sentencepiece.bpe.model", "spiece.model")
"""Files by which a directory shows that it has a tokenizer."""
REMEDY = "training needs --set data.tokenizer, as below"


@dataclass(frozen=True)
class ImportedTokenizer:
    """A tokenizer that an imported run keeps, or none."""

    file: TokenizerFile | None = None
    reason: str = ""
    """Why no tokenizer was found, though the model reads tokens; "" if it was found, or if the model reads none."""

    @property
    def is_needed(self) -> bool:
        """True if the model reads tokens and no tokenizer was found, so that training needs data.tokenizer."""
        return bool(self.reason)

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user of an imported run."""
        return (f"{self.reason}; {REMEDY}",) if self.reason else ()


def given_tokenizer(path: Path, vocab_size: int) -> ImportedTokenizer:
    """Return the tokenizer at `path`, a file or a folder. Raises: ConfigError if its ids are not the rows of `vocab_size` embeddings."""
    try:
        return ImportedTokenizer(_read(path, vocab_size))
    except ConfigError as error:
        raise ConfigError(f"--tokenizer {path}: {_fact(error)}; give the tokenizer of this model, or none") from None


def _fact(error: ConfigError) -> str:
    """Return what is wrong with a tokenizer, without the setting and the remedy for a run that is not imported."""
    return error.without_remedy.partition(": ")[2]


def text_tokenizer(folder: Path | None, recipe: Any, given: Path | None) -> ImportedTokenizer:
    """Return the tokenizer of a text model: that at `given`, else that of its Hugging Face directory. `folder` None: the model is no
    directory and has none. Raises: ConfigError."""
    vocab_size = recipe.frontend.vocab_size
    if given:
        return given_tokenizer(given, vocab_size)
    if folder is None:
        return ImportedTokenizer(reason="the checkpoint has no tokenizer, and --tokenizer names none")
    return tokenizer_of_folder(folder, vocab_size)


def no_tokenizer(folder: Path | None, recipe: Any, given: Path | None) -> ImportedTokenizer:
    """Return no tokenizer, for a model that reads no tokens. Raises: ConfigError if one is given."""
    if given is not None:
        raise ConfigError(f"--tokenizer {given}: a model of modality {recipe.modality} reads no tokens; leave it out")
    return ImportedTokenizer()


def tokenizer_of_folder(folder: Path, vocab_size: int) -> ImportedTokenizer:
    """Return the tokenizer of a Hugging Face directory. If it has none, or none whose ids are the rows of `vocab_size` embeddings, return
    no tokenizer, with a note."""
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        return ImportedTokenizer(reason="the directory has no tokenizer")
    try:
        return ImportedTokenizer(_read(folder, vocab_size))
    except ConfigError as error:
        return ImportedTokenizer(reason=f"the directory's tokenizer is left out ({_fact(error)})")


def _read(path: Path, vocab_size: int) -> TokenizerFile:
    place = path.expanduser()
    if place.is_dir() and not (place / tokenizer_json.FILE).exists() and (place / MODEL).exists():
        place = place / MODEL
    file = read_tokenizer(place, vocab_size)
    if file.name == tokenizer_json.FILE:
        _check_unchanged(place / tokenizer_json.FILE if place.is_dir() else place, file)
    return file


def _check_unchanged(original: Path, canonical: TokenizerFile) -> None:
    """Check that reading a tokenizer.json has changed no id: the special symbols have this project's ids, all other symbols their own.
    Raises: ConfigError."""
    before = tokenizers.Tokenizer.from_file(str(original)).get_vocab(with_added_tokens=True)
    now = tokenizers.Tokenizer.from_buffer(canonical.content).get_vocab(with_added_tokens=True)
    name_at = {number: name for name, number in before.items()}
    for role, name in tokenizer_json.NAMES.items():
        found = name_at.get(now[name])
        if found not in (name, *tokenizer_json.USUAL_NAMES[role]):
            raise ConfigError(
                f"data.tokenizer {original}: {name} must be number {now[name]}, by which the embeddings were learned, and there is "
                f"{found!r}; give the tokenizer of this model"
            )
    moved = [name for name, number in before.items() if now.get(name, number) != number]
    if moved or len(before) != len(now):
        raise ConfigError(
            f"data.tokenizer {original}: {len(moved)} of its {len(before)} symbols would get other numbers than those by which the "
            "embeddings were learned; give the tokenizer of this model"
        )
