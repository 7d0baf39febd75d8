"""The tokenizer of a run as files that `AutoTokenizer` of Hugging Face reads: tokenizer.json and tokenizer_config.json. A sentencepiece model
is converted. Nothing here needs `transformers`, and nothing is written.

The ids are those of recipes/data/tokenizer.py: the exported tokenizer gives `<s>`, our ids and `</s>`.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from recipes.data.tokenizer import MODEL, UNK
from recipes.data.tokenizer_json import FILE, NAMES, WORD_START, post_processor
from recipes.errors import ConfigError

CONFIG_FILE = "tokenizer_config.json"
MODEL_CLASS = "PreTrainedTokenizerFast"
"""With this class, transformers takes tokenizer.json as it is. Its own class for data2vec-text would build a byte-level BPE."""
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
"""Types of a piece in a sentencepiece model. Others are user-defined (4) and unused (5)."""
SEPARATOR = "\x8f"
"""A control character that every rule of sentencepiece removes. Regular expressions below put it between characters and count on that."""
LITERAL = (
    "`<mask>` and the other special symbols, written in a text, are the special symbols here; in pre-training they were plain letters."
)
CONVERTED = "It is converted from a sentencepiece model. Only some rare sequences of a ligature and a combining mark get other ids."
ENCODED_ALONE = (
    "The ids are those of pre-training: `tokenizer(text, add_special_tokens=False)` gives them, and `<s>` and `</s>` stand around them."
)


class ExportedTokenizer(NamedTuple):
    """The files of a tokenizer, name -> content, and sentences for a model card about what a user of them must expect."""

    files: dict[str, bytes]
    notes: tuple[str, ...]


def export_tokenizer(tokenizer: Path, max_length: int) -> ExportedTokenizer:
    """Return the files of a run's tokenizer for `AutoTokenizer`. `tokenizer`: tokenizer.model or a canonical tokenizer.json. `max_length`:
    most tokens of an input, with `<s>` and `</s>`.

    Raises: ConfigError if the sentencepiece model has properties that the library tokenizers lacks.
    """
    content = tokenizer.read_bytes()
    notes = [ENCODED_ALONE, LITERAL]
    if tokenizer.name == MODEL:
        content = _converted(content, f"{tokenizer}").to_str().encode()
        notes.append(CONVERTED)
    return ExportedTokenizer({FILE: content, CONFIG_FILE: (json.dumps(_config(max_length), indent=2) + "\n").encode()}, tuple(notes))


def _config(max_length: int) -> dict[str, Any]:
    names = {f"{role}_token": name for role, name in NAMES.items()} | {"cls_token": NAMES["bos"], "sep_token": NAMES["eos"]}
    return {
        "tokenizer_class": MODEL_CLASS,
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **names,
    }


def _converted(content: bytes, what: str) -> tokenizers.Tokenizer:
    """Return the tokenizer that gives the ids of a sentencepiece model. Raises: ConfigError."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(content)
    _check_convertible(proto, what)
    build = _unigram if proto.trainer_spec.model_type == proto.trainer_spec.UNIGRAM else _bpe
    tokenizer = tokenizers.Tokenizer(build(proto))
    tokenizer.normalizer = normalizers.Sequence(_normalizer_steps(proto.normalizer_spec.precompiled_charsmap))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(WORD_START, prepend_scheme="first")
    last = [decoders.ByteFallback(), decoders.Fuse()] if proto.trainer_spec.byte_fallback else []
    tokenizer.decoder = decoders.Sequence([*last, decoders.Metaspace(WORD_START, prepend_scheme="first")])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, lstrip=role == "mask") for role, name in NAMES.items()])
    values = json.loads(tokenizer.to_str()) | {"post_processor": post_processor()}
    return tokenizers.Tokenizer.from_str(json.dumps(values))


def _check_convertible(proto: Any, what: str) -> None:
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    refused = {
        "a model of words or characters": trainer.model_type not in (trainer.UNIGRAM, trainer.BPE),
        "user-defined symbols": any(piece.type not in (NORMAL, UNKNOWN, CONTROL, BYTE) for piece in proto.pieces),
        "treat_whitespace_as_suffix": trainer.treat_whitespace_as_suffix,
        "split_by_whitespace=false": not trainer.split_by_whitespace,
        "add_dummy_prefix=false": not normalizer.add_dummy_prefix,
        "remove_extra_whitespaces=false": not normalizer.remove_extra_whitespaces,
        "escape_whitespaces=false": not normalizer.escape_whitespaces,
    }
    if found := [name for name, has in refused.items() if has]:
        raise ConfigError(f"{what}: has {', '.join(found)}, which a {FILE} cannot express; export it without the tokenizer")


def _unigram(proto: Any) -> models.Unigram:
    return models.Unigram([(piece.piece, piece.score) for piece in proto.pieces], UNK, proto.trainer_spec.byte_fallback)


def _bpe(proto: Any) -> models.BPE:
    """Return the model with a merge for every split of a piece into two pieces, best score first. sentencepiece stores only the pieces: it
    merges any two neighbours that make a piece, that of the best score first."""
    ids = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    merges: list[tuple[float, int, tuple[str, str]]] = []
    for number, piece in enumerate(proto.pieces):
        text = piece.piece if piece.type == NORMAL else ""
        splits = ((text[:end], text[end:]) for end in range(1, len(text)))
        merges += [(-piece.score, number, split) for split in splits if split[0] in ids and split[1] in ids]
    ordered = [split for _, _, split in sorted(merges, key=lambda merge: merge[:2])]
    return models.BPE(ids, ordered, unk_token=NAMES["unk"], fuse_unk=True, byte_fallback=proto.trainer_spec.byte_fallback)


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
            _replace(r"(?<=\p{Mn})(?=\p{Mn})", SEPARATOR),
            *compose,
            *compose,
            normalizers.NFKC(),  # the longest sequences of the table have three marks
            _replace("(?=[\\p{M}\u200d\U0001f3fb-\U0001f3ff])", SEPARATOR),
            normalizers.Precompiled(charsmap),
        ]
    # A leading space stays, since the text after a `<mask>` begins with one; Metaspace adds none to it.
    return [*steps, _replace(" {2,}", " "), _replace("^ $|(?<=.) $", "")]


def _replace(pattern: str, by: str) -> normalizers.Replace:
    return normalizers.Replace(Regex(pattern), by)
