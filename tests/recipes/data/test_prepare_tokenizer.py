"""Preparation with a tokenizer.json, and by the rules of an older release for a run that began with them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from model.frontends.config import TextFrontendConfig
from recipes.data.contents import ResumedRun
from recipes.data.prepare import prepare_text
from recipes.data.shards import CONTENT_FILES, encoding_of, hash_files, kept_files, load_prepared, map_array
from recipes.data.tokenizer import ENCODING, EOS, cut, encode, num_symbols, read_tokenizer
from recipes.data_config import TextDataConfig
from recipes.errors import ConfigError
from tests.recipes.data.json_tokenizers import bert, roberta, saved

LONG = "x" * 5000


@pytest.fixture(scope="module")
def given(books: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a tokenizer of the books."""
    folder = tmp_path_factory.mktemp("given")
    saved(roberta((books / "book0.txt").read_text().splitlines(), 320), folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"cls_token": "<s>", "sep_token": "</s>"}))
    return folder


@pytest.fixture(scope="module")
def own_frontend(given: Path) -> TextFrontendConfig:
    return TextFrontendConfig(vocab_size=num_symbols(read_tokenizer(given, None)))


@pytest.fixture
def own(data: TextDataConfig, given: Path) -> TextDataConfig:
    """Settings with the given tokenizer."""
    return replace(data, tokenizer=str(given))


def test_a_folder_with_tokenizer_json_is_prepared_and_found_again(
    tmp_path: Path, own: TextDataConfig, own_frontend: TextFrontendConfig, books: Path
) -> None:
    out = prepare_text(own, own_frontend, tmp_path / "prepared", num_processes=1)
    info, path = load_prepared(out), out / "tokenizer.json"
    assert (info.tokenizer, info.encoding, info.vocab_size) == ("tokenizer.json", ENCODING, own_frontend.vocab_size)
    assert path.read_bytes() == read_tokenizer(Path(str(own.tokenizer)), None).content and not (out / "tokenizer.model").exists()
    assert info.fingerprint == hash_files([path, *(out / name for name in CONTENT_FILES)])
    assert kept_files(out) == {"tokenizer.json": info.tokenizer_sha256}
    tokens, _ = encode(str(path), (books / "book0.txt").read_text().splitlines())
    assert map_array(out / "tokens.bin", info.dtype)[: len(tokens)].tolist() == tokens.tolist()
    assert prepare_text(own, own_frontend, out) == prepare_text(replace(own, path=str(out)), own_frontend, tmp_path / "other") == out
    assert prepare_text(replace(own, path=str(out), tokenizer=str(path)), own_frontend, tmp_path / "other") == out
    path.unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json damaged or missing"):
        load_prepared(out)


def test_two_processes_give_what_one_gives(
    tmp_path: Path, own: TextDataConfig, own_frontend: TextFrontendConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.data.encoding.BATCH_BYTES", 5000)
    one, two = (prepare_text(own, own_frontend, tmp_path / str(number), num_processes=number) for number in (1, 2))
    assert load_prepared(one).fingerprint == load_prepared(two).fingerprint


def test_a_run_keeps_its_tokenizer_json_and_refuses_another(
    tmp_path: Path, own: TextDataConfig, own_frontend: TextFrontendConfig, given: Path
) -> None:
    file = read_tokenizer(given, None)
    (tmp_path / file.name).write_bytes(file.content)
    run = ResumedRun(tmp_path)
    for data in (own, replace(own, tokenizer=None)):
        out = prepare_text(data, own_frontend, tmp_path / str(data.tokenizer is None), num_processes=1, run=run)
        assert (out / "tokenizer.json").read_bytes() == file.content
    other = saved(bert(), tmp_path / "bert")
    with pytest.raises(ConfigError, match=rf"is not that of the run, .*; --set data\.tokenizer={tmp_path}/tokenizer\.json"):
        prepare_text(replace(own, tokenizer=str(other)), own_frontend, tmp_path / "refused", num_processes=1, run=run)


def test_lower_case_and_symbols_are_checked(tmp_path: Path, own: TextDataConfig, own_frontend: TextFrontendConfig) -> None:
    with pytest.raises(ConfigError, match=r"data\.lowercase is true, and data\.tokenizer .* keeps capitals"):
        prepare_text(replace(own, lowercase=True), own_frontend, tmp_path / "out", num_processes=1)
    words = replace(own, tokenizer=str(saved(bert(), tmp_path / "bert")))
    with pytest.raises(ConfigError, match=r"% of the tokens are <unk>, so the tokenizer does not fit this text"):
        size = num_symbols(read_tokenizer(Path(str(words.tokenizer)), None))
        prepare_text(words, TextFrontendConfig(vocab_size=size), tmp_path / "out", num_processes=1)
    assert not (tmp_path / "out").exists()


def test_a_run_of_an_older_release_gets_its_paragraphs_in_pieces_and_a_new_one_whole(
    tmp_path: Path, data: TextDataConfig, prepared: Path
) -> None:
    (tmp_path / "text.txt").write_text(f"{LONG}\n" + "ba do\n" * 400)
    model = prepared / "tokenizer.model"
    long = replace(data, path=str(tmp_path / "text.txt"), tokenizer=str(model))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    expected = {1: [token for piece in cut(LONG) for token in processor.encode(piece)], ENCODING: processor.encode(LONG)}
    assert expected[1] != expected[ENCODING]
    for version, run in ((1, ResumedRun(encoding=1)), (ENCODING, ResumedRun()), (ENCODING, None)):
        out = prepare_text(long, TextFrontendConfig(vocab_size=64), tmp_path / f"{version}{run}", num_processes=1, run=run)
        tokens = map_array(out / "tokens.bin", np.uint16)[: len(expected[version]) + 1]
        assert tokens.tolist() == [*expected[version], EOS]
        assert encoding_of(out) == load_prepared(out).encoding == version


def test_a_folder_of_an_older_release_has_a_model_and_the_first_rules(
    tmp_path: Path, data: TextDataConfig, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = json.loads((prepared / "prepared.json").read_text())
    before = {key: value for key, value in values.items() if key not in ("tokenizer", "encoding")}
    (tmp_path / "old").mkdir()
    for path in prepared.iterdir():
        (tmp_path / "old" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "old" / "prepared.json").write_text(json.dumps(before))
    old = load_prepared(tmp_path / "old")
    assert (old.tokenizer, old.encoding, encoding_of(tmp_path / "old")) == ("tokenizer.model", 1, 1)
    assert kept_files(tmp_path / "old") == kept_files(prepared) and encoding_of(tmp_path) is None
    given = replace(data, path=str(tmp_path / "old"))
    assert prepare_text(given, TextFrontendConfig(vocab_size=64), tmp_path / "out") == tmp_path / "old"
