"""Reading a .model file: what sentencepiece's own interface gives is the same, and the rest is what the model was trained with."""

import io
from typing import Any

import pytest
import sentencepiece

from recipes.interop.sentencepiece_model import BPE, BYTE, CONTROL, NORMAL, UNIGRAM, UNKNOWN, read_model

TEXT = ["the black cat sat upon the mat", "the white dog slept upon the mat", "a grey bird stood in the big house"] * 20


def trained(**options: Any) -> bytes:
    """Return a .model of the made-up text with this project's ids."""
    model = io.BytesIO()
    common = {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3, "vocab_size": 45, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXT), model_writer=model, **(common | options))
    return model.getvalue()


@pytest.mark.parametrize(("kind", "number"), [("unigram", UNIGRAM), ("bpe", BPE)])
def test_pieces_have_the_texts_and_scores_that_sentencepiece_gives(kind: str, number: int) -> None:
    content = trained(model_type=kind, byte_fallback=True, vocab_size=330)
    model, processor = read_model(content), sentencepiece.SentencePieceProcessor(model_proto=content)
    assert model.type == number and model.byte_fallback and model.unusual == ()
    assert [(piece.text, piece.score) for piece in model.pieces] == [
        (processor.id_to_piece(index), processor.get_score(index)) for index in range(processor.get_piece_size())
    ]
    assert [piece.type for piece in model.pieces[:5]] == [CONTROL, CONTROL, CONTROL, UNKNOWN, BYTE] and model.pieces[-1].type == NORMAL


def test_the_table_of_the_normalizer_is_found() -> None:
    sizes = [len(read_model(trained(normalization_rule_name=name)).charsmap) for name in ("identity", "nmt_nfkc", "nmt_nfkc_cf")]
    assert sizes[0] == 0 and 100_000 < sizes[1] < sizes[2]


@pytest.mark.parametrize("name", ["treat_whitespace_as_suffix", "split_by_whitespace", "add_dummy_prefix", "remove_extra_whitespaces"])
def test_unusual_settings_are_named(name: str) -> None:
    assert read_model(trained(**{name: name == "treat_whitespace_as_suffix"})).unusual == (name,)
    assert read_model(trained(model_type="char")).type not in (UNIGRAM, BPE)
