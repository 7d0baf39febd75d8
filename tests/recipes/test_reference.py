"""Every setting and every ds_config key is documented, docs/settings.md is current, and --help-set finds sections, settings and keys."""

import re
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, ClassVar

import pytest

from model.bounds import at_least
from recipes.catalog import RECIPES
from recipes.config import Recipe
from recipes.ds_keys import KEYS
from recipes.errors import ConfigError
from recipes.modalities.registry import MODALITIES
from recipes.reference import PAGE, document_keys, document_section, field_docs, help_set, settings_page
from recipes.settings import bounded_names, settable
from recipes.speech import speech_tiny
from recipes.text import text_tiny

EVERY_RECIPE = [build() for recipes in RECIPES.values() for build in recipes.values()]


def documented(recipe: Recipe) -> dict[str, tuple[str, str]]:
    """Dotted name -> values in words, meaning."""
    sections = {item.name: getattr(recipe, item.name) for item in fields(recipe)}
    docs = [doc for name, section in sections.items() if is_dataclass(section) for doc in document_section(section, name)]
    return {doc.name: (doc.values, doc.meaning) for doc in docs}


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == settings_page(), "run `make docs`"


def test_the_page_leaves_out_a_modality_that_a_users_file_has_added(monkeypatch: pytest.MonkeyPatch) -> None:
    class Numbers:
        kinds: ClassVar = {"frontend": (Base,), "mask": (Base,), "data": (Base,)}

    monkeypatch.setitem(MODALITIES, "numbers", Numbers())
    assert PAGE.read_text() == settings_page()


@pytest.mark.parametrize("recipe", EVERY_RECIPE, ids=lambda recipe: recipe.name)
def test_every_setting_has_a_meaning_and_is_on_the_page(recipe: Recipe) -> None:
    page, docs = PAGE.read_text(), documented(recipe)
    in_use = [name for name in docs if not name.startswith("finetune.") or recipe.finetune.is_in_use]
    assert in_use == settable(recipe)
    for name, (_, meaning) in docs.items():
        assert meaning.endswith("."), f"{name} has no docstring below its field, or one without a full stop"
        assert f"**`{name}`**" in page
    assert all(re.search(r"at least|above|between|below", docs[name][0]) for name in bounded_names(recipe))


def test_every_ds_config_key_has_a_meaning_a_default_and_is_on_the_page() -> None:
    page = PAGE.read_text()
    for doc in document_keys():
        assert doc.meaning.endswith(".") and f"**`{doc.name}`**" in page, doc.name
        assert bool(doc.default) != KEYS[doc.name].is_section, doc.name
    assert [doc.name for doc in document_keys()] == list(KEYS)


@dataclass(frozen=True)
class Base:
    """A section."""

    size: Annotated[int, at_least(1)] = 3
    """Its size,
    in bytes."""


@dataclass(frozen=True)
class Derived(Base):
    """Another one."""

    share: float | None = None
    names: tuple[str, ...] = ("a", "b")
    """Names."""
    inner: Base = Base(5)


def test_a_docstring_belongs_to_the_field_above_it_also_in_a_base_class() -> None:
    assert field_docs(Derived) == {"size": "Its size, in bytes.", "names": "Names."}
    docs = {doc.name: doc for doc in document_section(Derived(), "x")}
    assert list(docs) == ["x.size", "x.share", "x.names", "x.inner.size"]
    assert docs["x.size"].allowed == "an integer, at least 1; default 3"
    assert (docs["x.share"].default, docs["x.names"].default, docs["x.share"].meaning) == ("none", "a,b", "")


def test_an_instance_shows_its_own_values() -> None:
    docs = {doc.name: doc.default for doc in document_section(Derived(size=7, inner=Base(9)), "x")}
    assert (docs["x.size"], docs["x.inner.size"]) == ("7", "9")


def test_a_section_is_shown_with_the_values_of_the_recipe() -> None:
    shown = help_set(text_tiny(), "optim", 80)
    assert f"  optim.lr={text_tiny().optim.lr}  (a finite number, above 0)\n      Learning rate after warm-up." in shown
    assert max(map(len, shown.splitlines())) <= 80 and "optim.betas=0.9,0.98" in shown


def test_a_setting_a_key_and_a_section_of_the_ds_config_are_found() -> None:
    assert help_set(speech_tiny(), "mask.min_masks", 99).splitlines()[0] == "  mask.min_masks=1  (an integer, at least 1)"
    assert help_set(text_tiny(), "model.block", 99).count("model.block.") == 8
    assert "bf16.enabled=false" in help_set(text_tiny(), "bf16", 99) and "fp16" not in help_set(text_tiny(), "bf16", 99)
    assert all(key in help_set(text_tiny(), "ds_config", 99) for key in KEYS)
    assert '"auto" here, --set optim.lr changes it' in help_set(text_tiny(), "optimizer.params.lr", 200)


def test_without_a_name_the_sections_are_listed() -> None:
    listed = help_set(text_tiny(), "", 120)
    assert all(f"\n{name}: " in f"\n{listed}" for name in ("model", "optim", "checkpoint", "ds_config"))


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        ("optm", "did you mean optim?"),
        ("optim.lrs", "did you mean optim.lr?"),
        ("zzz", "sections are model, "),
        ("name", "sections are model, "),
    ],
)
def test_an_unknown_name_gets_a_remedy(asked: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--help-set {asked}: ")) as caught:
        help_set(text_tiny(), asked, 80)
    assert remedy in str(caught.value)
