"""Exported tokenizers: AutoTokenizer gives our ids, for text of all kinds."""

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

from recipes.data.source import open_source
from recipes.data.tokenizer import MODEL, TextSample, cut, encode, read_tokenizer, train_tokenizer
from recipes.data_config import TextDataConfig
from recipes.interop.tokenizer_export import CONVERTED, LITERAL_UNIGRAM, export_tokenizer
from tests.recipes.data.json_tokenizers import bert, byte_level, roberta, saved, unigram
from tests.recipes.interop.test_sentencepiece_model import trained

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared" / "data"
NAMES = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
HARD = [
    *("", "   ", "  a  b ", "\t a\tb\n", "a\u00a0b", "\0", "a\0b \0 \0", "\x01\x02a\x7fb\x85c", "x" * 10_000, "ab" * 5000),
    *("emoji \U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea x", "\u2581\u2581a \u2581 b", "\u200b", "\ufffd"),
    *("e\u0301cole CAFE\u0301 \u1ea4 A\u0302\u0301 a\u0323\u0302 q\u0323\u0307", "a\u0301\u0302\u0303b", " \u0301a", "\u0301a"),
    *(
        "\u05e9\u05c1\u05bc\u05b8\u05dc\u05d5\u05b9\u05dd \u05e9\u05bc\u05c1",
        "\u0627\u0644\u0639\u0631\u0628\u064a\u0629",
        "\u0995\u09c7\u09be",
    ),
    *(
        "\ufb01 \ufb02 \u00bd \u338f \u2460",
        "\uff46\uff55\uff4c\uff4c",
        "a\u200bb\u200cc\ufeffd",
        "\u3000a\u3000\u3000b",
        "\u65e5\u672c\u8a9e 10\uff5e20 \u301c ~",
    ),
    *("\u0130 I \u0131 \u1e9e \u00df", "the\u00adsoft", "a\u2028b\u2029c", "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab", "A\u200db"),
]


def exported(tokenizer: Path, folder: Path, max_length: int = 512):  # type: ignore[no-untyped-def]
    """Write the export of a tokenizer into the folder, and return what AutoTokenizer makes of it."""
    from transformers import AutoTokenizer

    folder.mkdir(parents=True)
    for name, content in export_tokenizer(tokenizer, max_length).files.items():
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps({"model_type": "data2vec-text"}))
    return AutoTokenizer.from_pretrained(folder)


def differing(theirs, tokenizer: Path, texts: list[str]) -> list[str]:  # type: ignore[no-untyped-def]
    """Return the texts to which an exported tokenizer gives other ids than encode() without its `</s>`."""
    tokens, lengths_P = encode(str(tokenizer), texts)
    ours = [part[:-1].tolist() for part in np.split(tokens, np.cumsum(lengths_P)[:-1])]
    found = theirs(texts, add_special_tokens=False).input_ids
    return [text for text, expected, ids in zip(texts, ours, found, strict=True) if expected != ids]


def random_texts(count: int) -> list[str]:
    """Return short texts of letters, spaces, marks and other characters that a normalizer treats in a special way."""
    rng = random.Random(0)
    characters = [*"aeiouthsnr  \t,.'\"-\u2014\u00e9\u00fc\u2581\u00bdAB", *"\u0301\u0302\u00a0\u3000\u200b\u200d\0\x01\u65e5\U0001f600"]
    return ["".join(rng.choice(characters) for _ in range(rng.randrange(1, 40))) for _ in range(count)]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Lines of one of the shipped books."""
    text = gzip.decompress((ROOT / "recipes/samples/text/Ford_Girl_1907.txt.gz").read_bytes()).decode()
    return text.splitlines()[:3000]


@pytest.fixture(scope="module", params=["unigram", "unigram lowercase", "bpe", "bpe lowercase"])
def model(request: pytest.FixtureRequest, lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, *lowercase = request.param.split()
    data = TextDataConfig(tokenizer_type=kind, lowercase=bool(lowercase))
    path = tmp_path_factory.mktemp("model") / MODEL
    path.write_bytes(train_tokenizer([part for line in lines for part in cut(line)], data, 1000))
    return path


def test_a_converted_model_gives_our_ids(model: Path, lines: list[str], tmp_path: Path) -> None:
    theirs = exported(model, tmp_path / "hf", 77)
    assert theirs.convert_tokens_to_ids(list(NAMES)) == [0, 1, 2, 3, 999] and len(theirs) == 1000
    assert (theirs.bos_token, theirs.pad_token, theirs.eos_token, theirs.unk_token, theirs.mask_token) == NAMES
    assert (theirs.cls_token_id, theirs.sep_token_id, theirs.model_max_length) == (0, 2, 77)
    assert differing(theirs, model, [*lines, *HARD, *random_texts(1500)]) == []


def test_special_symbols_stand_around_a_text_and_a_pair_and_a_mask_between_words(model: Path, tmp_path: Path) -> None:
    theirs = exported(model, tmp_path / "hf")
    first, second = (theirs(text, add_special_tokens=False).input_ids for text in ("the girl", "the time"))
    assert theirs("the girl").input_ids == [0, *first, 2]
    assert theirs("the girl", "the time").input_ids == [0, *first, 2, 2, *second, 2]
    assert set(theirs("the girl")) == {"input_ids", "attention_mask"}
    masked = theirs("the girl <mask> the time <mask>.", split_special_tokens=False).input_ids
    assert masked == [0, *first, 999, *second, 999, theirs.convert_tokens_to_ids("."), 2]
    assert theirs.decode(theirs("the time").input_ids, skip_special_tokens=True) == "the time"


def test_names_of_special_symbols_are_letters_unless_one_asks_for_the_symbols(model: Path, tmp_path: Path) -> None:
    texts = [*NAMES, *(f"a {name} b{name}c {name}" for name in NAMES), "<<unk>", "<unk><s></s>", "<mask", "</", "<S>"]
    theirs, text = exported(model, tmp_path / "hf"), "a <s> b </s> c <mask> d <pad>"
    assert differing(theirs, model, texts) == []
    assert not {0, 1, 2, 999} & set(theirs(text, add_special_tokens=False).input_ids)
    ids = theirs(text, add_special_tokens=False, split_special_tokens=False).input_ids
    assert [ids.count(number) for number in (0, 1, 2, 999)] == [1, 1, 1, 1]
    notes = export_tokenizer(model, 512).notes
    assert any("`<mask>`, is plain letters if it stands in a text" in note for note in notes) and CONVERTED in notes


@pytest.mark.parametrize("name", ["roberta", "gpt2", "bert", "unigram"])
def test_a_tokenizer_json_gives_our_ids(name: str, lines: list[str], tmp_path: Path) -> None:
    text = lines[:1500]
    given = {"roberta": lambda: roberta(text, 600), "gpt2": lambda: byte_level(("<|endoftext|>",), text, 600)} | {
        "bert": lambda: bert(text, 600),
        "unigram": lambda: unigram(text, 600),
    }
    path = saved(given[name](), tmp_path / "given")
    path.write_bytes(read_tokenizer(path, None).content)
    theirs = exported(path, tmp_path / "hf")
    assert theirs.convert_tokens_to_ids(list(NAMES)) == [0, 1, 2, 3, len(theirs) - 1]
    spaces = [hard for hard in HARD if not hard.strip()]  # encode() gives a paragraph of spaces no tokens
    assert differing(theirs, path, [*lines, *(hard for hard in HARD if hard not in spaces)]) == []
    assert theirs("the girl").input_ids[:: len(theirs("the girl").input_ids) - 1] == [0, 2]
    notes = export_tokenizer(path, 512).notes
    assert CONVERTED not in notes and (LITERAL_UNIGRAM in notes) == (name == "unigram")


def test_byte_fallback_is_exported(tmp_path: Path) -> None:
    for kind in ("unigram", "bpe"):
        path = tmp_path / kind / MODEL
        path.parent.mkdir()
        path.write_bytes(trained(model_type=kind, byte_fallback=True, vocab_size=330))
        theirs = exported(path, tmp_path / f"{kind}-hf")
        assert differing(theirs, path, HARD) == []
        text = "Hello world it's \u65e5 here"
        assert theirs.decode(theirs(text).input_ids, skip_special_tokens=True) == text


def test_a_model_that_cannot_be_converted_is_exported_as_it_is_and_the_reason_is_noted(tmp_path: Path) -> None:
    cases = {
        "split_by_whitespace": trained(split_by_whitespace=False),
        "a model of words or characters": trained(model_type="char"),
        "user-defined symbols": trained(user_defined_symbols=["<x>"]),
    }
    for complaint, content in cases.items():
        (tmp_path / MODEL).write_bytes(content)
        found = export_tokenizer(tmp_path / MODEL, 512)
        assert found.files.keys() == {"sentencepiece.model", "tokenizer_config.json"} and len(found.notes) == 1
        assert found.files["sentencepiece.model"] == content
        with pytest.raises(ValueError, match="Couldn't instantiate the backend tokenizer"):  # and does not build another one
            exported(tmp_path / MODEL, tmp_path / complaint)
        assert complaint in found.notes[0] and "cannot express" in found.notes[0]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason=f"no {SHARED}")
@pytest.mark.parametrize(("kind", "size"), [("unigram", 2000), ("bpe", 20_000)])
def test_every_line_of_wikitext_and_a_thousand_of_the_novels_get_our_ids(kind: str, size: int, tmp_path: Path) -> None:
    sample, paragraphs = TextSample(20_000_000), list(open_source(TextDataConfig(path=str(SHARED / "text-novels/train"))).paragraphs())
    for _, paragraph in paragraphs:
        sample.add(paragraph)
    (tmp_path / MODEL).write_bytes(train_tokenizer(sample, TextDataConfig(tokenizer_type=kind, lowercase=kind == "unigram"), size))
    wikitext = [gzip.decompress(path.read_bytes()).decode() for path in sorted((SHARED / "text-wikitext2-eval").glob("*.txt.gz"))]
    lines = "".join(wikitext).split("\n")
    assert len(lines) > 8000
    novels = [paragraph for _, paragraph in paragraphs[:: len(paragraphs) // 1000]]
    assert differing(exported(tmp_path / MODEL, tmp_path / "hf"), tmp_path / MODEL, [*lines, *novels, *HARD]) == []
