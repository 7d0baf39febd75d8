"""tokenizer.json: its symbols have our ids whatever theirs were, and text is encoded as the library alone encodes it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from recipes.data import tokenizer, tokenizer_json
from recipes.data.tokenizer import BOS, EOS, PAD, UNK, encode, find_tokenizer, is_lowercasing, is_word, num_symbols, read_tokenizer
from recipes.errors import ConfigError
from tests.recipes.data.json_tokenizers import TEXT, bert, byte_level, roberta, saved, unigram

SPELLED = "<s> </s> <pad> <unk> <mask> [CLS] [SEP] [MASK] <|endoftext|>"
KINDS: dict[str, Callable[[], Tokenizer]] = {
    "roberta": roberta,
    "gpt2": lambda: byte_level(("<|endoftext|>",)),
    "bert": bert,
    "unigram": unigram,
}


@pytest.fixture
def logged() -> list[str]:
    return []


def kept(path: Path, folder: Path, logged: list[str]) -> Path:
    """Write the canonical form of a tokenizer to the folder, as a preparation does, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    file = read_tokenizer(path, None, logged.append)
    (folder / file.name).write_bytes(file.content)
    return folder / file.name


@pytest.fixture(params=list(KINDS))
def pair(request: pytest.FixtureRequest, tmp_path: Path, logged: list[str]) -> tuple[Tokenizer, Path]:
    """A tokenizer and its canonical file."""
    given = KINDS[request.param]()
    return given, kept(saved(given, tmp_path / "given"), tmp_path / "kept", logged)


def test_the_roles_are_the_ids() -> None:
    names = list(tokenizer_json.NAMES)
    assert [names.index(role) for role in ("bos", "pad", "eos", "unk")] == [BOS, PAD, EOS, UNK] and tokenizer_json.UNK == UNK


def test_symbols_get_our_ids_and_the_others_keep_their_order(pair: tuple[Tokenizer, Path]) -> None:
    given, path = pair
    canonical, size = Tokenizer.from_file(str(path)), num_symbols(read_tokenizer(path, None))
    assert [canonical.token_to_id(name) for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")] == [0, 1, 2, 3, size - 1]
    assert all(token.special for token in canonical.get_added_tokens_decoder().values())
    ours = [canonical.id_to_token(number) for number in range(4, size - 1)]
    theirs = [given.id_to_token(number) for number in range(given.get_vocab_size())]
    assert [name for name in theirs if name in set(ours)] == ours and len(ours) >= len(theirs) - 5


def test_text_gives_the_symbols_that_the_library_alone_gives(pair: tuple[Tokenizer, Path]) -> None:
    given, path = pair
    names = {"[UNK]": "<unk>"}
    canonical = Tokenizer.from_file(str(path))
    hard = ["The CAT  sat\t.", " \U0001f600 e\u0301 \0", "x" * 10_000, "שלום", *TEXT[:3]]
    tokens, lengths_P = encode(str(path), hard)
    for text, found in zip(hard, np.split(tokens, np.cumsum(lengths_P)[:-1]), strict=True):
        assert found[-1] == EOS
        expected = [given.id_to_token(number) for number in given.encode(text, add_special_tokens=False).ids]
        assert [canonical.id_to_token(number) for number in found[:-1]] == [names.get(name, name) for name in expected]


def test_names_of_special_symbols_in_a_text_give_no_special_id(pair: tuple[Tokenizer, Path]) -> None:
    _, path = pair
    (*tokens, last), lengths_P = encode(str(path), [SPELLED, " ", ""])
    assert last == EOS and not {BOS, PAD, EOS, num_symbols(read_tokenizer(path, None)) - 1} & {int(token) for token in tokens}
    assert lengths_P.tolist() == [len(tokens) + 1, 0, 0]


def test_names_of_special_symbols_are_letters_of_a_byte_level_bpe(tmp_path: Path, logged: list[str]) -> None:
    given = roberta()
    path = kept(saved(given, tmp_path / "given"), tmp_path, logged)
    given.encode_special_tokens = True
    tokens, _ = encode(str(path), [SPELLED])
    assert tokens.tolist() == [*given.encode(SPELLED, add_special_tokens=False).ids, EOS] and UNK not in tokens


def test_unknown_characters_have_the_id_of_the_unknown_symbol(tmp_path: Path, logged: list[str]) -> None:
    for name in ("bert", "unigram"):
        path = kept(saved(KINDS[name](), tmp_path / name), tmp_path / name / "kept", logged)
        assert Tokenizer.from_file(str(path)).encode("\u2603", add_special_tokens=False).ids[-1] == UNK


def test_a_canonical_file_is_read_as_it_is(pair: tuple[Tokenizer, Path], logged: list[str]) -> None:
    logged.clear()
    assert read_tokenizer(pair[1], None, logged.append) == ("tokenizer.json", pair[1].read_bytes()) and logged == []


def test_the_ids_of_roberta_stay_and_those_of_special_symbols_around_a_pair(tmp_path: Path, logged: list[str]) -> None:
    given = roberta()
    path = kept(saved(given, tmp_path / "given"), tmp_path, logged)
    canonical = Tokenizer.from_file(str(path))
    assert canonical.get_vocab() == given.get_vocab() and logged == []
    assert canonical.encode("the cat", "the mat").ids == given.encode("the cat", "the mat").ids
    assert json.loads(canonical.to_str())["post_processor"]["type"] == "RobertaProcessing"


def test_a_pair_is_joined_as_roberta_joins_it(pair: tuple[Tokenizer, Path]) -> None:
    canonical = Tokenizer.from_file(str(pair[1]))
    first, second = (canonical.encode(text, add_special_tokens=False).ids for text in ("the cat", "the mat"))
    both = canonical.encode("the cat", "the mat")
    assert canonical.encode("the cat").ids == [BOS, *first, EOS]
    assert both.ids == [BOS, *first, EOS, EOS, *second, EOS] and set(both.type_ids) == {0}


def test_symbols_that_are_missing_are_added_and_named(tmp_path: Path, logged: list[str]) -> None:
    given = byte_level(("<|endoftext|>",))
    path = saved(given, tmp_path)
    file = read_tokenizer(path, given.get_vocab_size() + 4, logged.append)
    size = given.get_vocab_size() + 4
    assert logged == [f"data.tokenizer {path} has no <s>, <pad>, <unk>, <mask>: added, which makes {size} symbols"]
    assert num_symbols(file) == size
    assert "<|endoftext|>" not in Tokenizer.from_buffer(file.content).get_vocab(), "it is </s> now"


def test_a_hugging_face_folder_names_its_special_symbols(tmp_path: Path, logged: list[str]) -> None:
    names = ("<|start|>", "<|fill|>", "<|stop|>", "<|odd|>", "<|blank|>")
    saved(byte_level(names), tmp_path)
    roles = zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), names, strict=True)
    config: dict[str, Any] = dict(roles) | {"mask_token": {"content": "<|blank|>", "lstrip": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    found = Tokenizer.from_buffer(read_tokenizer(tmp_path, 300, logged.append).content)
    assert logged == [] and not set(names) & found.get_vocab().keys()
    assert [found.id_to_token(number) for number in (0, 1, 2, 3, 299)] == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    (tmp_path / "tokenizer_config.json").rename(tmp_path / "special_tokens_map.json")
    assert read_tokenizer(tmp_path, 300).content == found_bytes(tmp_path)


def found_bytes(folder: Path) -> bytes:
    """Return the canonical content, with the file of roles under its newer name."""
    (folder / "special_tokens_map.json").rename(folder / "tokenizer_config.json")
    return read_tokenizer(folder, 300).content


def test_padding_and_truncation_of_a_file_are_ignored(tmp_path: Path, logged: list[str]) -> None:
    given = roberta()
    given.enable_truncation(4)
    given.enable_padding(length=64, pad_id=1, pad_token="<pad>")
    path = kept(saved(given, tmp_path / "given"), tmp_path, logged)
    tokens, _ = encode(str(path), ["the black cat sat upon the mat"])
    assert 4 < len(tokens) < 64 and PAD not in tokens


def test_lower_case_and_whole_words(tmp_path: Path, logged: list[str]) -> None:
    pieces = Tokenizer(models.Unigram([("<unk>", 0.0), ("\u2581the", -1.0), ("at", -2.0), ("\u2581c", -2.0), ("\u2581,", -2.0)], 0))
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    words = {"roberta": {"the", "cat", "été"}, "bert": {"the", "cat"}, "unigram": {"the", "c"}}
    for name, expected in words.items():
        given = pieces if name == "unigram" else KINDS[name]()
        path = kept(saved(given, tmp_path / name), tmp_path / name / "kept", logged)
        assert is_lowercasing(read_tokenizer(path, None)) == (name == "bert")
        canonical, is_word_V = Tokenizer.from_file(str(path)), is_word(path)
        assert len(is_word_V) == canonical.get_vocab_size()
        found = {canonical.decode([int(number)]).strip() for number in np.flatnonzero(is_word_V)}
        assert expected <= found and "at" not in found and all(word.isalpha() for word in found), name


def test_a_second_tokenizer_at_the_same_place_is_the_one_that_encodes(tmp_path: Path, logged: list[str]) -> None:
    path = kept(saved(roberta(), tmp_path / "one"), tmp_path, logged)
    first, _ = encode(str(path), ["the cat"])
    path.unlink()
    kept(saved(bert(), tmp_path / "two"), tmp_path, logged)
    assert encode(str(path), ["the cat"])[0].tolist() != first.tolist()


def test_find_tokenizer_takes_either_name(tmp_path: Path, logged: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"is not there \(tokenizer\.model or tokenizer\.json\)"):
        find_tokenizer(tmp_path)
    assert find_tokenizer(kept(saved(roberta(), tmp_path / "given"), tmp_path, logged).parent) == tmp_path / tokenizer.FILES[0]


BAD: dict[str, tuple[bytes, str]] = {
    "something else": (b'{"hidden_size": 768}', r"JSON, but no tokenizer \(it has no model\.vocab\)"),
    "a list": (b"[1]", "JSON, but no tokenizer"),
    "truncated": (b'{"model": {"vocab', r"not readable as tokenizer\.json"),
    "a sentencepiece model": (b"\x0a\x0d\x0a\x03<s>\xff", r"not readable as tokenizer\.json .*; give a tokenizer\.json or"),
    "another type": (b'{"model": {"type": "Morse", "vocab": {}}}', "of the type Morse, which is not supported; give one of BPE, WordPiece"),
    "not read by the library": (b'{"model": {"type": "BPE", "vocab": {"a": 0}}}', "the library tokenizers cannot read it"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_files_that_are_no_tokenizer_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    content, complaint = BAD[name]
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_tokenizer(tmp_path / "x.json", None)
    assert "\n" not in str(caught.value)


def test_folders_without_a_tokenizer_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a\n")
    with pytest.raises(ConfigError, match=rf"there is no tokenizer\.json in {tmp_path}; AutoTokenizer.* writes a tokenizer\.json"):
        read_tokenizer(tmp_path, None)
    with pytest.raises(ConfigError, match=r"there is no none\.json"):
        read_tokenizer(tmp_path / "none.json", None)
    saved(roberta(), tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"its tokenizer_config\.json cannot be read"):
        read_tokenizer(tmp_path, None)


def test_a_model_of_words_needs_a_symbol_for_unknown_ones(tmp_path: Path) -> None:
    vocab = {"cat": 0, "mat": 1, "<unk>": 2}
    for unknown in ("<none>", "<unk>"):
        words = Tokenizer(models.WordLevel(vocab, unk_token=unknown))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        path = saved(words, tmp_path)
        if unknown == "<none>":
            with pytest.raises(ConfigError, match="its WordLevel model has no symbol for unknown words"):
                read_tokenizer(path, None)
    path.write_bytes(read_tokenizer(path, 7).content)
    assert encode(str(path), ["cat dog mat"])[0].tolist() == [4, UNK, 5, EOS]


def test_a_vocabulary_of_another_size_is_refused_with_the_size(tmp_path: Path) -> None:
    path = saved(roberta(), tmp_path)
    for size in (200, 50265):
        with pytest.raises(
            ConfigError, match=rf"299 symbols, frontend\.vocab_size {size} needs {size - 1} .*--set frontend\.vocab_size=300"
        ):
            read_tokenizer(path, size)


def test_an_ordinary_symbol_with_the_name_of_a_special_one_is_refused(tmp_path: Path) -> None:
    vocab = {name: number for number, name in enumerate(("<", "s", ">", "<s", "<s>", "<|endoftext|>"))}
    given = Tokenizer(models.BPE(vocab, [("<", "s"), ("<s", ">")]))
    with pytest.raises(ConfigError, match="<s> is an ordinary symbol in it, and a special one here"):
        read_tokenizer(saved(given, tmp_path), None)


def test_a_symbol_with_the_name_of_another_role_is_refused(tmp_path: Path) -> None:
    saved(byte_level(("<s>",)), tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "<s>"}')
    with pytest.raises(ConfigError, match="it names <s> as a symbol of another role"):
        read_tokenizer(tmp_path, None)
