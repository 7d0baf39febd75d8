"""The tokenizer of a run as files that `AutoTokenizer` of Hugging Face reads: tokenizer.json and tokenizer_config.json. A sentencepiece
model is converted. Nothing here needs `transformers`, and nothing is written.

The ids are those of recipes/data/tokenizer.py: the exported tokenizer gives `<s>`, our ids and `</s>`.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from recipes.data.tokenizer import MODEL, UNK
from recipes.data.tokenizer_json import FILE, NAMES, WORD_START, post_processor
from recipes.interop.hf_files import as_json
from recipes.interop.sentencepiece_model import BPE, BYTE, CONTROL, NORMAL, UNIGRAM, UNKNOWN, SentencePieceModel, read_model

CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_CLASS = "PreTrainedTokenizerFast"
"""With this class, transformers takes tokenizer.json as it is. Its own class for data2vec-text would build a byte-level BPE."""
PLAIN, NO_CLASS = "sentencepiece.model", "NoneForThisSentencepieceModel"
"""The file of a model that cannot be converted, and a class that transformers does not have: so AutoTokenizer fails, and does not build
another tokenizer."""
IN_A_NAME = "|".join(re.sub(r"^(\W+)(.*)$", r"\1(?=\2)", name) for name in NAMES.values())
"""The signs before the letters of a special symbol's name in a text. The text is split after them, since the unigram model would find the
name in its own vocabulary. sentencepiece never does."""
SEPARATOR = "\x8f"
"""A control character, put for a while between characters that must not combine. The usual tables of sentencepiece remove it from text."""
KEPT, STAND_IN = "\uff5e", "\ue0fe"
"""The wide tilde, which the usual tables of sentencepiece keep and NFKC replaces, and a private character that stands for it meanwhile."""
SAME_IDS = (
    "`tokenizer(text, add_special_tokens=False)` gives the ids of pre-training. By default, `<s>` stands before them and `</s>` after them."
)
LITERAL = (
    "The name of a special symbol, such as `<mask>`, is plain letters if it stands in a text, as in pre-training. "
    "`tokenizer(text, split_special_tokens=False)` makes it that symbol."
)
LITERAL_UNIGRAM = (
    "The name of a special symbol, such as `<mask>`, may become that symbol if it stands in a text. In pre-training it was `<unk>`."
)
CONVERTED = "The tokenizer is converted from a sentencepiece model. Ids differ only for rare sequences of characters and combining marks."


class ExportedTokenizer(NamedTuple):
    """The files of a tokenizer, name -> content, and sentences for a model card about what a user of them must expect."""

    files: dict[str, bytes]
    notes: tuple[str, ...]


def export_tokenizer(tokenizer: Path, max_length: int) -> ExportedTokenizer:
    """Return the files of a run's tokenizer for `AutoTokenizer`. `tokenizer`: tokenizer.model or a canonical tokenizer.json. `max_length`:
    most tokens of an input, with `<s>` and `</s>`. A sentencepiece model with properties that the library tokenizers lacks is returned as
    it is, under the name PLAIN."""
    content = tokenizer.read_bytes()
    notes = [SAME_IDS, LITERAL]
    if tokenizer.name == MODEL:
        model = read_model(content)
        if refused := _inexpressible(model):
            note = f"There is no {FILE}, since it cannot express {' and '.join(refused)}: use the library sentencepiece with {PLAIN}."
            return ExportedTokenizer({PLAIN: content, CONFIG_FILE: as_json({"tokenizer_class": NO_CLASS})}, (note,))
        content = _converted(model).to_str().encode()
        notes.append(CONVERTED)
    elif json.loads(content)["model"]["type"] == "Unigram":
        notes[1] = LITERAL_UNIGRAM
    return ExportedTokenizer({FILE: content, CONFIG_FILE: as_json(_config(max_length))}, tuple(notes))


def _config(max_length: int) -> dict[str, Any]:
    names = {f"{role}_token": name for role, name in NAMES.items()} | {"cls_token": NAMES["bos"], "sep_token": NAMES["eos"]}
    return {
        "tokenizer_class": TOKENIZER_CLASS,
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        **names,
    }


def _converted(model: SentencePieceModel) -> tokenizers.Tokenizer:
    """Return the tokenizer that gives the ids of a sentencepiece model."""
    tokenizer = tokenizers.Tokenizer(_unigram(model) if model.type == UNIGRAM else _bpe(model))
    tokenizer.normalizer = normalizers.Sequence(_normalizer_steps(model.charsmap))
    words = pre_tokenizers.Metaspace(WORD_START, prepend_scheme="first")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(IN_A_NAME), "merged_with_previous"), words])
    tokenizer.decoder = decoders.Metaspace(WORD_START, prepend_scheme="first")
    if model.byte_fallback:
        spaces = decoders.Replace(WORD_START, " ")
        tokenizer.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, lstrip=role == "mask") for role, name in NAMES.items()])
    values = json.loads(tokenizer.to_str()) | {"post_processor": post_processor()}
    return tokenizers.Tokenizer.from_str(json.dumps(values))


def _inexpressible(model: SentencePieceModel) -> list[str]:
    """Return the properties of a sentencepiece model that the library tokenizers lacks."""
    found = list(model.unusual)
    if model.type not in (UNIGRAM, BPE):
        found.append("a model of words or characters")
    if any(piece.type not in (NORMAL, UNKNOWN, CONTROL, BYTE) for piece in model.pieces):
        found.append("user-defined symbols")
    return found


def _unigram(model: SentencePieceModel) -> models.Unigram:
    return models.Unigram([(piece.text, piece.score) for piece in model.pieces], UNK, model.byte_fallback)


def _bpe(model: SentencePieceModel) -> models.BPE:
    """Return the model with a merge for every split of a piece into two pieces, best score first. sentencepiece stores only the pieces: it
    merges any two neighbours that make a piece, that of the best score first."""
    ids = {piece.text: number for number, piece in enumerate(model.pieces)}
    merges: list[tuple[float, int, tuple[str, str]]] = []
    for number, (text, score, kind) in enumerate(model.pieces):
        splits = ((text[:end], text[end:]) for end in range(1, len(text) if kind == NORMAL else 0))
        merges += [(-score, number, split) for split in splits if split[0] in ids and split[1] in ids]
    ordered = [split for _, _, split in sorted(merges, key=lambda merge: merge[:2])]
    return models.BPE(ids, ordered, unk_token=NAMES["unk"], fuse_unk=True, byte_fallback=model.byte_fallback)


def _normalizer_steps(charsmap: bytes) -> list[Any]:
    """Return the steps that turn text into what sentencepiece makes of it by its table `charsmap` (empty: by no table).

    `Precompiled` alone is wrong where characters combine: it looks up the shortest sequence and not the longest, and drops the rest of the
    grapheme. So characters are composed before, and then separated from their marks. sentencepiece does not sort marks, but NFKC does.
    Separators between marks prevent that. A composed character takes one mark after the other.
    """
    steps: list[Any] = []
    if charsmap:
        compose = [normalizers.NFKC(), _replace(r"(?<!\p{M})" + SEPARATOR + r"(?=\p{M})", "")]
        steps = [
            _replace(KEPT, STAND_IN),
            _replace(r"(?<=\p{Mn})(?=\p{Mn})", SEPARATOR),
            *compose,
            *compose,
            normalizers.NFKC(),  # the longest sequences of the table have three marks
            # Not at the start of a text: there the library does not take it out again.
            _replace("(?<=[\\s\\S])(?=[\\p{M}\u200d\U0001f3fb-\U0001f3ff])", SEPARATOR),
            normalizers.Precompiled(charsmap),
            _replace(STAND_IN, KEPT),
            _replace(SEPARATOR, ""),
        ]
    # A leading space stays, since the text after a `<mask>` begins with one; Metaspace adds none to it.
    return [*steps, _replace(" {2,}", " "), _replace("^ $|(?<=.) $", "")]


def _replace(pattern: str, by: str) -> normalizers.Replace:
    return normalizers.Replace(Regex(pattern), by)
