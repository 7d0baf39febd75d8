"""Settings that have no effect on a preparation are logged. Settings that do not fit the text are logged or refused."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from model.frontends.config import TextFrontendConfig
from recipes.data.prepare import USED_FOR, prepare_text
from recipes.data.tokenizer import train_tokenizer
from recipes.data_config import TextDataConfig
from recipes.errors import ConfigError


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    return []


@pytest.fixture(scope="module")
def models(books: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Tokenizers of the books. Key: True if the tokenizer converts to lower case."""
    texts = [line for book in sorted(books.iterdir()) for line in book.read_text().splitlines()]
    folder = tmp_path_factory.mktemp("models")
    for folds in (False, True):
        (folder / str(folds)).write_bytes(train_tokenizer(texts, TextDataConfig(lowercase=folds), 64))
    return {folds: folder / str(folds) for folds in (False, True)}


def test_every_setting_has_its_use() -> None:
    assert set(USED_FOR) == {field.name for field in fields(TextDataConfig)}


def test_settings_without_effect_are_logged(
    tmp_path: Path, lines: list[str], data: TextDataConfig, frontend: TextFrontendConfig, models: dict[bool, Path]
) -> None:
    given = replace(data, tokenizer=str(models[False]), tokenizer_sample_megabytes=3, text_column="body")
    prepare_text(given, frontend, tmp_path / "out", num_processes=1, log=lines.append)
    assert lines[-2:] == [
        "without effect, as this text has no columns: data.text_column body",
        "without effect, as data.tokenizer is given: data.tokenizer_type unigram, data.tokenizer_sample_megabytes 3",
    ]


def test_nothing_is_logged_if_every_setting_has_an_effect(
    tmp_path: Path, lines: list[str], data: TextDataConfig, frontend: TextFrontendConfig
) -> None:
    (tmp_path / "a.csv").write_text("body,text\n" + "".join(f"{line},x\n" for line in ("ba do ki " * 20, "lu me no " * 20) * 40))
    table = replace(data, path=str(tmp_path / "a.csv"), text_column="body", tokenizer_type="bpe")
    prepare_text(table, TextFrontendConfig(vocab_size=24), tmp_path / "out", num_processes=1, log=lines.append)
    assert not any("without effect" in line or "<unk>" in line for line in lines)


def test_data_lowercase_needs_a_tokenizer_that_converts_to_lower_case(
    tmp_path: Path, lines: list[str], data: TextDataConfig, frontend: TextFrontendConfig, models: dict[bool, Path]
) -> None:
    asked = replace(data, lowercase=True, tokenizer=str(models[True]))
    prepare_text(asked, frontend, tmp_path / "folded", num_processes=1, log=lines.append)
    assert not any("lower-cases" in line for line in lines)
    prepare_text(replace(asked, lowercase=False), frontend, tmp_path / "logged", num_processes=1, log=lines.append)
    assert any("lower-cases the text, whatever data.lowercase says" in line for line in lines)
    with pytest.raises(ConfigError, match=r"data\.lowercase is true, and data\.tokenizer .* keeps capitals; --set data\.lowercase=false"):
        prepare_text(replace(asked, tokenizer=str(models[False])), frontend, tmp_path / "refused", num_processes=1)


def test_a_share_of_unknown_tokens_is_logged_and_a_large_share_is_refused(
    tmp_path: Path, lines: list[str], data: TextDataConfig, frontend: TextFrontendConfig, books: Path, models: dict[bool, Path]
) -> None:
    text = (books / "book0.txt").read_text()
    for name, content in {"some": text.replace("ba", "BA"), "most": text.upper()}.items():
        (tmp_path / f"{name}.txt").write_text(content)
    given = replace(data, tokenizer=str(models[False]), path=str(tmp_path / "some.txt"))
    prepare_text(given, frontend, tmp_path / "out", num_processes=1, log=lines.append)
    assert any("% of the tokens are <unk>" in line for line in lines)
    with pytest.raises(ConfigError, match=r"most\.txt: [3-9]\d\.\d % of the tokens are <unk>, so .* --set data\.tokenizer=none trains one"):
        prepare_text(replace(given, path=str(tmp_path / "most.txt")), frontend, tmp_path / "none", num_processes=1)
    prepare_text(replace(given, path=str(tmp_path / "most.txt"), tokenizer=None), frontend, tmp_path / "none", num_processes=1)
