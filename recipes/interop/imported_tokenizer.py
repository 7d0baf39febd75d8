"""The tokenizer of an imported text model: read from the source or from --tokenizer, or left out with a note that says why."""

from dataclasses import dataclass
from pathlib import Path

from recipes.data.tokenizer import read_tokenizer
from recipes.errors import ConfigError

NAME = "tokenizer.model"
TOKENIZER_FILES = (NAME, "tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "sentencepiece.bpe.model", "spiece.model")
"""Files by which a directory shows that it has a tokenizer."""
REMEDY = "train on with --set data.tokenizer=FILE, as below"


@dataclass(frozen=True)
class ImportedTokenizer:
    """A tokenizer that an imported run keeps; without `content` it has none. `notes` are lines for the user."""

    name: str = NAME
    content: bytes | None = None
    notes: tuple[str, ...] = ()
    is_needed: bool = False
    """True if the model reads tokens and no tokenizer was found, so that training needs data.tokenizer."""


def given_tokenizer(path: Path, vocab_size: int) -> ImportedTokenizer:
    """Return the tokenizer at `path`, a file or a folder. Raises: ConfigError if it cannot be used with `vocab_size` embeddings."""
    return ImportedTokenizer(NAME, _read(path, vocab_size))


def tokenizer_of_folder(folder: Path, vocab_size: int) -> ImportedTokenizer:
    """Return the tokenizer of a Hugging Face directory. If it has none, or none whose ids are those of the embeddings, return no
    tokenizer, with a note."""
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        return ImportedTokenizer(notes=(f"the directory has no tokenizer; {REMEDY}",), is_needed=True)
    try:
        return ImportedTokenizer(NAME, _read(folder, vocab_size))
    except ConfigError as error:
        reason = str(error).rpartition("; ")[0].removeprefix("data.tokenizer ") or str(error)
        return ImportedTokenizer(notes=(f"the directory's tokenizer is left out ({reason}); {REMEDY}",), is_needed=True)


def no_tokenizer() -> ImportedTokenizer:
    """Return no tokenizer, with a note for a source that never has one."""
    return ImportedTokenizer(notes=(f"the checkpoint has no tokenizer, and --tokenizer names none; {REMEDY}",), is_needed=True)


def _read(path: Path, vocab_size: int) -> bytes:
    file = path / NAME if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise ConfigError(f"data.tokenizer {path}: no {NAME} in it, and this version reads no other tokenizer; give a .model file")
    return read_tokenizer(file, vocab_size)
