"""A tokenizer.json of Hugging Face (library `tokenizers`): reading one, renumbering its symbols, and encoding with it. sentencepiece
models, and what is common to both kinds, are in tokenizer.py.

A file that is read becomes canonical: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, and `<mask>` last. Special symbols are found by their role,
never by their number, and get these names. All other symbols keep their order. A role without a symbol gets a new one.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from recipes.data.tokenizer_files import JSON
from recipes.errors import ConfigError, first_line

FILE = JSON
NAMES = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
"""Role -> name of the special symbol in a canonical file, in the order of the ids. `<mask>` is the last symbol of all."""
UNK = list(NAMES).index("unk")
USUAL_NAMES = {
    "eos": ("</s>", "[SEP]", "<|endoftext|>", "<eos>", "<|end_of_text|>"),
    "bos": ("<s>", "[CLS]", "<bos>", "<|begin_of_text|>"),
    "pad": ("<pad>", "[PAD]"),
    "unk": ("<unk>", "[UNK]"),
    "mask": ("<mask>", "[MASK]"),
}
"""Role -> names that other tokenizers use. A symbol that fits two roles, as GPT-2's `<|endoftext|>`, has the role that stands first."""
CONFIG_KEYS = {
    "eos": ("eos_token", "sep_token"),
    "bos": ("bos_token", "cls_token"),
    "pad": ("pad_token",),
    "unk": ("unk_token",),
    "mask": ("mask_token",),
}
"""Role -> its keys in tokenizer_config.json and special_tokens_map.json."""
MODELS = ("BPE", "WordPiece", "Unigram", "WordLevel")
NEW_SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
WORD_START, BYTE_SPACE = "\u2581", "\u0120"
"""What marks the start of a word in a symbol: the first in sentencepiece and its relatives, the second in a byte-level BPE."""

Content = dict[str, Any]
"""The content of a tokenizer.json."""


def read_canonical(path: Path, log: Callable[[str], None]) -> bytes:
    """Return the canonical content of a tokenizer.json. `path`: the file, or a folder as `save_pretrained` of Hugging Face writes it, whose
    configuration then names the special symbols. `log` gets a line about symbols that had to be added.

    Raises: ConfigError if there is no such file, or if it is not a tokenizer that can be used here.
    """
    what = f"data.tokenizer {path}"
    place = path.expanduser()
    content = _load(place / FILE if place.is_dir() else place, what)
    named = _names_in_config(place, what) if place.is_dir() else {}
    roles = _find_roles(content, named)
    _check_model(content, roles, what)
    known = set(_symbols(content))
    new = [NAMES[role] for role in NAMES if roles[role] not in known]
    result = json.dumps(_renumbered(content, roles), ensure_ascii=False, separators=(",", ":")).encode()
    try:
        found = tokenizers.Tokenizer.from_buffer(result)
    except Exception as error:  # the library raises no other class
        raise ConfigError(f"{what}: its special symbols cannot be renumbered ({first_line(error)}); give another tokenizer") from error
    assert [found.token_to_id(name) for name in NAMES.values()] == [0, 1, 2, 3, found.get_vocab_size() - 1]
    if new:
        log(f"{what} has no {', '.join(new)}: added, which makes {found.get_vocab_size()} symbols")
    return result


def _load(file: Path, what: str) -> Content:
    """Return the content of a tokenizer.json, after the library has read it. Raises: ConfigError."""
    try:
        text = file.read_bytes()
        content = json.loads(text)
    except FileNotFoundError as error:
        remedy = f"AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER) of transformers writes a {FILE}"
        raise ConfigError(f"{what}: there is no {file.name}{f' in {file.parent}' if file.parent.exists() else ''}; {remedy}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{what}: not readable as {FILE} ({first_line(error)}); give a {FILE} or a sentencepiece .model") from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or "vocab" not in model:
        raise ConfigError(f"{what}: JSON, but no tokenizer (it has no model.vocab); give a {FILE} or a sentencepiece .model")
    kind = model.setdefault("type", "BPE" if "merges" in model else "WordPiece")
    if kind not in MODELS:
        raise ConfigError(f"{what}: its model is of the type {kind}, which is not supported; give one of {', '.join(MODELS)}")
    try:
        tokenizers.Tokenizer.from_buffer(text)
    except Exception as error:  # the library raises no other class
        raise ConfigError(f"{what}: the library tokenizers cannot read it ({first_line(error)}); give another {FILE}") from error
    return dict(content)


def _names_in_config(folder: Path, what: str) -> dict[str, str]:
    """Return role -> name of the special symbol, as far as the configuration of a Hugging Face folder has them. Raises: ConfigError if a
    file is not JSON."""
    values: Content = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        try:
            values |= json.loads((folder / name).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{what}: its {name} cannot be read ({first_line(error)}); write it again or remove it") from error
    found = {}
    for role, keys in CONFIG_KEYS.items():
        tokens = [values[key] for key in keys if values.get(key)]
        if tokens:
            found[role] = str(tokens[0]["content"] if isinstance(tokens[0], dict) else tokens[0])
    return found


def _find_roles(content: Content, named: dict[str, str]) -> dict[str, str]:
    """Return role -> symbol. The symbol is the model's own unknown symbol, the one in `named`, or one with a usual name. If there is none,
    it is the canonical name, a new symbol; "" if that has another role."""
    model = content["model"]
    unknown = model.get("unk_token")
    if model["type"] == "Unigram" and isinstance(model.get("unk_id"), int):
        unknown = model["vocab"][model["unk_id"]][0]
    known, ordinary = set(_symbols(content)), _merged(content)
    roles: dict[str, str] = {}
    for role, usual in USUAL_NAMES.items():
        own = unknown if role == "unk" else None
        candidates = [own, named.get(role), *(name for name in usual if name in known - ordinary), NAMES[role]]
        roles[role] = next((name for name in candidates if name and name not in roles.values()), "")
    return roles


def _check_model(content: Content, roles: dict[str, str], what: str) -> None:
    """Check that unknown words have a symbol, and that no ordinary symbol has the name of a special one. Raises: ConfigError."""
    model, known = content["model"], set(_symbols(content))
    has_unknown = model.get("unk_id") is not None if model["type"] == "Unigram" else model.get("unk_token") in known
    if model["type"] != "BPE" and not has_unknown:
        raise ConfigError(f"{what}: its {model['type']} model has no symbol for unknown words; give one with an unk_token such as <unk>")
    special = set(roles.values())
    if "" in special:
        lacking = ", ".join(NAMES[role] for role, name in roles.items() if not name)
        raise ConfigError(f"{what}: it names {lacking} as a symbol of another role; correct its tokenizer_config.json")
    if taken := (set(NAMES.values()) & known) - special | special & _merged(content):
        raise ConfigError(f"{what}: {', '.join(sorted(taken))} is an ordinary symbol in it, and a special one here; give another tokenizer")


def _merged(content: Content) -> set[str]:
    """Return the symbols that a merge of the BPE model makes from text, so that they cannot be special symbols."""
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in content["model"].get("merges", ()))
    return {"".join(pair) for pair in pairs} - {token["content"] for token in _added(content) if token["special"]}


def _added(content: Content) -> list[Content]:
    return sorted(content.get("added_tokens") or (), key=lambda token: token["id"])


def _model_entries(model: Content) -> list[tuple[str, float]]:
    """Return (symbol, score) of the model's vocabulary in the order of ids. The score is 0 if the model has none."""
    if model["type"] == "Unigram":
        return [(name, score) for name, score in model["vocab"]]
    return [(name, 0.0) for name in sorted(model["vocab"], key=model["vocab"].__getitem__)]


def _entries(content: Content) -> list[tuple[str, float]]:
    own = _model_entries(content["model"])
    names = {name for name, _ in own}
    return own + [(token["content"], 0.0) for token in _added(content) if token["content"] not in names]


def _symbols(content: Content) -> list[str]:
    """Return the symbols of a tokenizer, those of the model and the added ones, in the order of their ids."""
    return [name for name, _ in _entries(content)]


def _renumbered(content: Content, roles: dict[str, str]) -> Content:
    """Return the content with the canonical names and ids. Padding and truncation are off, and a text gets `<s>` and `</s>` around it, if
    special symbols are asked for."""
    new_name = {roles[role]: NAMES[role] for role in NAMES}
    entries = _entries(content)
    scores = dict(entries)
    special = [(NAMES[role], scores.get(roles[role], 0.0)) for role in NAMES]
    ordered = [*special[:-1], *(entry for entry in entries if entry[0] not in new_name), special[-1]]
    ids = {name: number for number, (name, _) in enumerate(ordered)}
    model = {**content["model"], "vocab": [list(entry) for entry in ordered] if content["model"]["type"] == "Unigram" else ids}
    if model.get("unk_token"):
        model["unk_token"] = NAMES["unk"]
    if model["type"] == "Unigram":
        model["unk_id"] = UNK
    added: dict[str, Content] = {new_name.get(token["content"], str(token["content"])): token for token in _added(content)}
    for role, name in NAMES.items():
        added[name] = {**added.get(name, {**NEW_SPECIAL, "lstrip": role == "mask"}), "special": True}
    tokens = [{**added[name], "id": ids[name], "content": name} for name in sorted(added, key=ids.__getitem__)]
    return {
        "version": content.get("version", "1.0"),
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token.pop("id"), "content": token.pop("content"), **token} for token in tokens],
        "normalizer": content.get("normalizer"),
        "pre_tokenizer": content.get("pre_tokenizer"),
        "post_processor": post_processor(content.get("post_processor")),
        "decoder": content.get("decoder"),
        "model": model,
    }


def post_processor(before: Content | None = None) -> Content:
    """Return the post-processor of a canonical file: `<s> A </s>`, and `<s> A </s> </s> B </s>` for a pair, as RoBERTa has it. `before`:
    that of the file; RoBERTa's own one is kept, because it also moves offsets."""
    bos, eos = NAMES["bos"], NAMES["eos"]
    if before is not None and before.get("type") == "RobertaProcessing":
        return {**before, "sep": [eos, 2], "cls": [bos, 0]}

    def symbol(name: str) -> Content:
        return {"SpecialToken": {"id": name, "type_id": 0}}

    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [symbol(bos), first, symbol(eos)],
        "pair": [symbol(bos), first, symbol(eos), symbol(eos), second, symbol(eos)],
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in ((bos, 0), (eos, 2))},
    }


def num_symbols(content: bytes) -> int:
    """Return the number of symbols of a canonical file, `<mask>` included."""
    return int(tokenizers.Tokenizer.from_buffer(content).get_vocab_size())


def is_lowercasing(content: bytes) -> bool:
    """True if the normalizer of a tokenizer.json converts text to lower case."""
    normalizer = tokenizers.Tokenizer.from_buffer(content).normalizer
    return normalizer is not None and normalizer.normalize_str("A").strip("\u2581 ") == "a"


def load(content: bytes) -> tokenizers.Tokenizer:
    """Return the tokenizer of a canonical file, which reads the names of special symbols in a text as letters."""
    tokenizer = tokenizers.Tokenizer.from_buffer(content)
    tokenizer.encode_special_tokens = True  # a `<mask>` in the text is just letters
    return tokenizer


def encode_each(tokenizer: tokenizers.Tokenizer, paragraphs: list[str]) -> Iterable[list[int]]:
    """Return the ids of each paragraph by a tokenizer that load() returned, without `<s>` and `</s>`. There are none for a paragraph of
    spaces. No id is that of a special symbol: if the model gives one for text that spells its name, `<unk>` stands there."""
    mask = tokenizer.get_vocab_size() - 1
    texts = [paragraph if paragraph.strip() else "" for paragraph in paragraphs]
    for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
        ids = encoding.ids
        if ids and (min(ids) < UNK or max(ids) == mask):
            ids = [UNK if number < UNK or number == mask else number for number in ids]
        yield ids


def is_word(content: bytes) -> np.ndarray:
    """Return, for each id of a canonical file, True if the symbol is a whole word, at the start of a word, and consists of letters."""
    values = json.loads(content)
    model, names = values["model"], _symbols(values)
    if model["type"] in ("WordPiece", "WordLevel"):
        return np.array([name.isalpha() for name in names])  # WordPiece marks what continues a word by ##
    if '"ByteLevel"' in json.dumps(values["pre_tokenizer"]):
        decode = tokenizers.decoders.ByteLevel().decode  # its symbols are bytes, so letters outside of ASCII are not legible in them
        return np.array([name[0] == BYTE_SPACE and decode([name[1:]]).isalpha() for name in names])
    return np.array([name[0] == WORD_START and name[1:].isalpha() for name in names])
