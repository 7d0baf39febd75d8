"""The tokenizer: ids, the training sample, cutting of paragraphs, and vocabularies that do not fit."""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from recipes.data.tokenizer import (
    EOS,
    MAX_PIECE_CHARACTERS,
    UNK,
    TextSample,
    TokenizerFile,
    cut,
    encode,
    is_lowercasing,
    read_tokenizer,
    token_dtype,
    train_tokenizer,
)
from recipes.data_config import TextDataConfig
from recipes.errors import ConfigError

TEXT = [f"the {colour} cat {verb} upon the mat" for colour in ("black", "white", "grey") for verb in ("sat", "slept", "stood")] * 5
VOCAB_SIZE = 26


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(train_tokenizer(TEXT, TextDataConfig(tokenizer_type=request.param, lowercase=True), VOCAB_SIZE))
    return path


def test_training_gives_one_symbol_less_than_the_vocabulary_and_repeats() -> None:
    data = TextDataConfig(tokenizer_type="unigram")
    content = train_tokenizer(TEXT, data, VOCAB_SIZE)
    assert sentencepiece.SentencePieceProcessor(model_proto=content).get_piece_size() == VOCAB_SIZE - 1
    assert train_tokenizer(TEXT, data, VOCAB_SIZE) == content


def test_long_paragraphs_of_any_script_are_trained_on(tmp_path: Path) -> None:
    long = "αβγδε " * (MAX_PIECE_CHARACTERS // 6)  # nearly two bytes per character
    (tmp_path / "model").write_bytes(train_tokenizer([*TEXT, *cut(long)], TextDataConfig(), 40))
    assert UNK not in encode(str(tmp_path / "model"), ["αβγδε"])[0]


@pytest.mark.parametrize(("lowercase", "read"), [(False, "The CAT sat"), (True, "the cat sat")])
def test_capitals_are_kept_unless_data_lowercase(lowercase: bool, read: str) -> None:
    content = train_tokenizer([*TEXT, "The CAT sat"], TextDataConfig(lowercase=lowercase), VOCAB_SIZE + 4)
    processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    assert processor.decode(processor.encode("The CAT sat")) == read


def test_every_paragraph_ends_with_its_end_token_and_can_be_read_again(model: Path) -> None:
    tokens, lengths_P = encode(str(model), ["The CAT sat", "  ", "upon the mat"])
    first, empty, last = np.split(tokens, np.cumsum(lengths_P)[:-1])
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert len(empty) == 0
    assert first[-1] == last[-1] == EOS
    assert processor.decode(first[:-1].tolist()) == "the cat sat"  # lower case by the model's own rule
    assert UNK not in tokens


def test_literal_special_tokens_in_the_text_are_just_letters(model: Path) -> None:
    tokens, _ = encode(str(model), ["<s> </s> <pad> <mask>"])
    assert not {0, 1, VOCAB_SIZE - 1} & set(tokens.tolist())
    assert (tokens == EOS).sum() == 1


def test_a_long_paragraph_gives_the_tokens_of_its_words(model: Path) -> None:
    long = " ".join(TEXT * 10)
    tokens, lengths_P = encode(str(model), [long])
    whole = sentencepiece.SentencePieceProcessor(model_file=str(model)).encode(long)
    assert len(long) > 3 * MAX_PIECE_CHARACTERS
    assert tokens.tolist() == [*whole, EOS] and lengths_P.tolist() == [len(tokens)]


@given(st.text(alphabet="ab ", max_size=3 * MAX_PIECE_CHARACTERS).map(lambda text: " ".join(text.split())) | st.just("x" * 5000))
def test_cut_pieces_are_short_and_lose_only_the_spaces_between(text: str) -> None:
    pieces = cut(text)
    assert all(len(piece) <= MAX_PIECE_CHARACTERS for piece in pieces)
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")


def test_a_capped_sample_is_spread_evenly_and_repeats() -> None:
    samples = [TextSample(max_bytes=1000) for _ in range(2)]
    for number in range(5000):
        for sample in samples:
            sample.add(f"{number:08d}")
    kept = [int(text) for text in samples[0]]
    assert 500 <= samples[0].num_bytes <= 1000
    assert {later - earlier for earlier, later in pairwise(kept)} == {64}
    assert kept[-1] > 5000 - 2 * 64
    assert list(samples[0]) == list(samples[1])


def test_the_error_about_a_vocabulary_that_the_text_cannot_fill_has_the_largest_size() -> None:
    data = TextDataConfig(tokenizer_type="unigram")
    with pytest.raises(ConfigError, match=r"frontend\.vocab_size 5000 is too large.*--set frontend\.vocab_size=\d+") as caught:
        train_tokenizer(TEXT, data, 5000)
    largest = int(str(caught.value).split("--set frontend.vocab_size=")[1].split()[0])
    train_tokenizer(TEXT, data, largest)
    with pytest.raises(ConfigError):
        train_tokenizer(TEXT, data, largest + 1)


def test_a_vocabulary_smaller_than_the_alphabet_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"frontend\.vocab_size 12 is too small, the characters alone need \d+"):
        train_tokenizer(TEXT, TextDataConfig(), 12)


def test_a_given_model_must_have_the_size_and_the_ids(tmp_path: Path, model: Path) -> None:
    assert read_tokenizer(model, VOCAB_SIZE) == TokenizerFile("tokenizer.model", model.read_bytes())
    with pytest.raises(ConfigError, match=r"25 symbols, frontend\.vocab_size 50 needs 49.*--set frontend\.vocab_size=26"):
        read_tokenizer(model, 50)
    with pytest.raises(ConfigError, match="no sentencepiece model"):
        read_tokenizer(tmp_path / "none.model", VOCAB_SIZE)
    (tmp_path / "text.model").write_text("hello")
    with pytest.raises(ConfigError, match="no sentencepiece model"):
        read_tokenizer(tmp_path / "text.model", VOCAB_SIZE)
    other = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXT), model_writer=other, vocab_size=VOCAB_SIZE - 1, minloglevel=2)
    (tmp_path / "other.model").write_bytes(other.getvalue())
    with pytest.raises(ConfigError, match=r"bos, pad, eos, unk are \(1, -1, 2, 0\); train it with --bos_id=0"):
        read_tokenizer(tmp_path / "other.model", VOCAB_SIZE)


def test_the_dtype_of_the_shards_grows_with_the_vocabulary() -> None:
    assert (token_dtype(65536), token_dtype(65537)) == (np.uint16, np.uint32)


@pytest.mark.parametrize("lowercase", [False, True])
def test_a_lowercasing_model_is_recognised(lowercase: bool) -> None:
    content = train_tokenizer([*TEXT, "The CAT sat"], TextDataConfig(lowercase=lowercase), VOCAB_SIZE + 4)
    assert is_lowercasing(TokenizerFile("tokenizer.model", content)) == lowercase
