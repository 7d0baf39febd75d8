"""Copies of the golden Hugging Face directories for tests; that of text gets a tokenizer of its size."""

import shutil
from pathlib import Path

from recipes.data.tokenizer import train_tokenizer
from recipes.text import text_tiny
from tests.made_up import write_book

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
