"""Copies of the golden Hugging Face directories for tests; that of text gets a tokenizer of its size."""

import shutil
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from recipes.data.tokenizer import train_tokenizer
from recipes.text import text_tiny
from tests.made_up import write_book
from tests.recipes.data.json_tokenizers import saved

GOLDEN = Path(__file__).parents[2] / "golden" / "hf"
CASES = {"text": "text", "speech": "audio", "vision": "vision_shared"}
"""Modality -> folder of the golden model."""
VOCAB_SIZE = 100


def copy_golden(modality: str, folder: Path) -> Path:
    """Copy the model of a modality into the new folder `folder`, and return it."""
    shutil.copytree(GOLDEN / CASES[modality], folder)
    if modality == "text":
        lines = write_book(folder / "book.txt").read_text().splitlines()
        (folder / "tokenizer.model").write_bytes(train_tokenizer(lines, text_tiny().data, VOCAB_SIZE))
    return folder


def word_level() -> Tokenizer:
    """Return a tokenizer of 100 symbols, with the ids that this project has."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "ba", "do", "ki", "lu", "me", "no", "pa"]
    words += [*(f"w{number}" for number in range(VOCAB_SIZE - len(words) - 1)), "<mask>"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer


def text_model_with(tokenizer: Tokenizer, folder: Path) -> Path:
    """Write the golden text model with this tokenizer.json of 100 symbols."""
    copy_golden("text", folder)
    (folder / "tokenizer.model").unlink()
    saved(tokenizer, folder)
    return folder
