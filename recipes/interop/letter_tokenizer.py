"""The alphabet of a CTC head as the files that Wav2Vec2CTCTokenizer of transformers reads. Torch-free."""

from collections.abc import Sequence

from recipes.interop.hf_files import as_json
from recipes.interop.tokenizer_export import CONFIG_FILE
from recipes.supervised_config import SPECIAL_LETTERS

VOCAB, SPECIAL = "vocab.json", "special_tokens_map.json"
PROCESSOR_CLASS = "Wav2Vec2Processor"


def letter_files(alphabet: Sequence[str]) -> dict[str, bytes]:
    """Return name -> content of the tokenizer's files. `alphabet`: the symbols of the head's outputs; it begins with SPECIAL_LETTERS, of
    which `<pad>` is the blank."""
    pad, bos, eos, unk, word_end = SPECIAL_LETTERS
    names = {"bos_token": bos, "eos_token": eos, "unk_token": unk, "pad_token": pad}
    settings = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "processor_class": PROCESSOR_CLASS,
        **names,
        "word_delimiter_token": word_end,
        "replace_word_delimiter_char": " ",
        "do_lower_case": False,
        "clean_up_tokenization_spaces": False,
    }
    vocab = {symbol: number for number, symbol in enumerate(alphabet)}
    return {VOCAB: as_json(vocab), CONFIG_FILE: as_json(settings), SPECIAL: as_json(names)}
