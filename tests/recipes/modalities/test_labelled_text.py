"""The source of labelled texts: checks of settings and data, and data sets of a prepared folder."""

from pathlib import Path

import pytest

from recipes.check import check_data, check_recipe
from recipes.data.contents import ResumedRun
from recipes.errors import ConfigError, DataMismatch
from recipes.modalities.labelled_text import LabelledTextSource
from recipes.modalities.registry import source_of
from tests.recipes.data.labelled_texts import recipe_of, write_texts

SOURCE = LabelledTextSource()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared from the folder `data` beside it."""
    folder = tmp_path_factory.mktemp("labelled")
    return SOURCE.prepare(recipe_of(write_texts(folder / "data")), folder / "prepared")


def test_labelled_texts_have_their_own_source() -> None:
    assert isinstance(source_of(recipe_of("words")), LabelledTextSource)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("data.text_columns=a,b,c", "data.text_columns names 3 columns; name one, or two for pairs: --set data.text_columns=a,b"),
        (
            "data.sequence_length=33",
            "data.sequence_length 33 is more than frontend.max_positions 32 of the network; use --set data.sequence_length=32",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_line(setting: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_recipe(recipe_of("words", setting))
    assert str(caught.value) == complaint


def test_a_prepared_folder_gives_its_splits_and_values(prepared: Path) -> None:
    recipe = recipe_of(prepared.parent / "data")
    train, valid = SOURCE.open_data(recipe, prepared)
    assert (len(train), len(valid), len(SOURCE.open_split(recipe, prepared, "test"))) == (40, 9, 7)
    assert SOURCE.values(recipe, prepared)["objective.labels"] == ("a", "b", "c")


def test_a_dry_run_checks_columns_and_prepared_folders(prepared: Path) -> None:
    data = prepared.parent / "data"
    assert check_data(recipe_of(data)) == "" == check_data(recipe_of(prepared))
    for setting, complaint in (
        ("data.label_column=kind", "no column 'kind' of labels in split train, there are text, other, label, score; --set data.label_col"),
        ("data.text_columns=text,b", r"no column 'b', there are text, other, label, score; --set data\.text_columns=NAME"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            check_data(recipe_of(data, setting))
    with pytest.raises(DataMismatch, match=r"prepared with frontend\.vocab_size 100, now 200"):
        check_data(recipe_of(prepared, "frontend.vocab_size=200"))


def test_a_run_prepares_other_data_with_its_own_tokenizer(prepared: Path, tmp_path: Path) -> None:
    recipe = recipe_of(write_texts(tmp_path / "data", {"train": 60, "valid": 9}))
    again = SOURCE.prepare(recipe, tmp_path / "out", run=ResumedRun(prepared))
    assert (again / "tokenizer.model").read_bytes() == (prepared / "tokenizer.model").read_bytes()
    assert SOURCE.prepare(recipe_of(tmp_path / "data", f"data.tokenizer={prepared}/tokenizer.model"), again) == again
