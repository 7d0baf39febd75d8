"""A tokenizer comes along if its ids are the rows of the embeddings; any other one is left out or refused, with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.errors import ConfigError
from recipes.interop.imported_tokenizer import given_tokenizer, text_tokenizer, tokenizer_of_folder
from recipes.text import text_tiny
from tests.recipes.interop.sources import VOCAB_SIZE, sentencepiece_model, tokenizer_json

ROBERTA = ["<s>", "<pad>", "</s>", "<unk>"]


def folder_with(tmp_path: Path, content: dict[str, Any]) -> Path:
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("special", [ROBERTA, ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]])
def test_a_tokenizer_with_the_ids_of_the_embeddings_comes_along(special: list[str], tmp_path: Path) -> None:
    folder = folder_with(tmp_path, tokenizer_json(special, "<mask>" if special == ROBERTA else "[MASK]"))
    found = tokenizer_of_folder(folder, VOCAB_SIZE)
    assert found.file is not None and found.file.name == "tokenizer.json" and not found.notes and not found.is_needed
    assert given_tokenizer(folder / "tokenizer.json", VOCAB_SIZE) == given_tokenizer(folder, VOCAB_SIZE) == found


@pytest.mark.parametrize(
    ("special", "last", "reason"),
    [
        (["[PAD]", "[CLS]", "[SEP]", "[UNK]"], "[MASK]", r"<s> must be number 0, .* and there is '\[PAD\]'"),
        (["<s>", "<pad>", "</s>", "<mask>", "<unk>"], "other", "<unk> must be number 3, .* there is '<mask>'"),
        (["</s>", "<unk>"], "<mask>", "101 symbols, frontend.vocab_size 100 needs 99"),
    ],
)
def test_one_whose_symbols_would_have_to_be_renumbered_is_left_out_of_a_folder_and_refused_if_given(
    special: list[str], last: str, reason: str, tmp_path: Path
) -> None:
    folder = folder_with(tmp_path, tokenizer_json(special, last))
    found = tokenizer_of_folder(folder, VOCAB_SIZE)
    assert found.file is None and found.is_needed
    with pytest.raises(ConfigError, match=reason):
        given_tokenizer(folder, VOCAB_SIZE)
    assert found.notes[0].startswith("the directory's tokenizer is left out (") and found.notes[0].endswith(
        "needs --set data.tokenizer, as below"
    )


def test_ordinary_symbols_that_would_move_are_noticed(tmp_path: Path) -> None:
    content = tokenizer_json(ROBERTA)
    vocab = content["model"]["vocab"]
    vocab["hole"] = vocab.pop("a") + 200  # a number that no symbol had, and one that no symbol has now
    content["model"]["vocab"] = dict(sorted(vocab.items(), key=lambda item: item[1]))
    with pytest.raises(ConfigError, match="of its 100 symbols would get other numbers"):
        given_tokenizer(folder_with(tmp_path, content), VOCAB_SIZE)


def test_a_sentencepiece_model_comes_along(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    found = tokenizer_of_folder(tmp_path, VOCAB_SIZE)
    assert found.file == given_tokenizer(tmp_path / "tokenizer.model", VOCAB_SIZE).file
    assert found.file is not None and found.file.name == "tokenizer.model"
    assert "99 symbols, frontend.vocab_size 120 needs 119" in tokenizer_of_folder(tmp_path, 120).notes[0]


def test_a_source_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    for found in (tokenizer_of_folder(tmp_path, VOCAB_SIZE), text_tokenizer(None, text_tiny(), None)):
        assert found.file is None and found.is_needed and "no tokenizer" in found.notes[0] and "data.tokenizer" in found.notes[0]
    (tmp_path / "vocab.json").write_text("{}")
    assert "left out (there is no tokenizer.json" in tokenizer_of_folder(tmp_path, VOCAB_SIZE).notes[0]
