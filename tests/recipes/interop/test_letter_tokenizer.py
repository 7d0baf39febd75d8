"""The alphabet of a CTC head as transformers reads it."""

from pathlib import Path

import pytest

from recipes.interop.hf_files import PREPROCESSOR, as_json
from recipes.interop.letter_tokenizer import letter_files
from recipes.interop.processors import speech_preprocessor
from recipes.scores.ctc import greedy, text_of
from recipes.speech import speech_base
from tests.recipes.interop.task_runs import ALPHABET


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the tokenizer's files, the feature extractor's and a config.json."""
    files = {
        **letter_files(ALPHABET),
        PREPROCESSOR: as_json(speech_preprocessor(speech_base())),
        "config.json": as_json({"model_type": "data2vec-audio"}),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_the_processor_of_wav2vec2_reads_the_alphabet_the_blank_and_the_word_end(folder: Path) -> None:
    from transformers import AutoProcessor, Wav2Vec2CTCTokenizer, Wav2Vec2Processor

    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, Wav2Vec2Processor) and isinstance(processor.tokenizer, Wav2Vec2CTCTokenizer)
    tokenizer = processor.tokenizer
    assert [tokenizer.convert_ids_to_tokens(number) for number in range(len(tokenizer))] == list(ALPHABET)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2, 3)
    assert tokenizer.word_delimiter_token == "|"
    assert tokenizer("a tea").input_ids == [8, 4, 6, 5, 8]


def test_the_best_symbols_become_the_text_of_greedy_decoding(folder: Path) -> None:
    from transformers import AutoTokenizer

    best = [4, 0, 8, 8, 0, 8, 4, 4, 6, 5, 0, 5, 7, 4, 0]
    assert AutoTokenizer.from_pretrained(folder).decode(best) == text_of(greedy(best, 0), ALPHABET) == "aa tee'"
