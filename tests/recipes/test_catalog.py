"""Every shipped recipe: consistent, with the name of its function, found by its modality, built without torch; and a recipe in a file of
the user."""

import re
import sys
from pathlib import Path

import pytest

from recipes.catalog import RECIPES, default_recipe, find_recipe
from recipes.check import check_recipe
from recipes.errors import ConfigError
from tests.distributed import run_command

NAMES = [(modality, name) for modality, recipes in RECIPES.items() for name in recipes]


@pytest.mark.parametrize(("modality", "name"), NAMES)
def test_a_recipe_is_consistent_and_has_its_name(modality: str, name: str) -> None:
    recipe = RECIPES[modality][name]()
    check_recipe(recipe)
    assert (recipe.name, recipe.modality, recipe.data.path) == (name, modality, None)


def test_the_recipes_of_product_md_exist_and_names_are_unique() -> None:
    names = [name for _, name in NAMES]
    assert {f"{modality}_{size}" for modality in ("text", "speech", "vision") for size in ("tiny", "base", "large")} <= set(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("modality", RECIPES)
def test_the_default_is_tiny_and_its_batch_divides_over_eight_ranks(modality: str) -> None:
    recipe = RECIPES[modality][default_recipe(modality)]()
    assert recipe.name == f"{modality}_tiny" and recipe.run.global_batch_size % 8 == 0


OWN = """from recipes.text import text_tiny


def mine():
    return text_tiny()


number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe of the user. Modules that Python imports from it are removed afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_recipes", raising=False)
    (tmp_path / "own_recipes.py").write_text(OWN)
    (tmp_path / "broken_recipes.py").write_text("import nowhere")
    (tmp_path / "wrong_recipes.py").write_text("def mine(:")
    return tmp_path


@pytest.mark.parametrize("name", ["{folder}/own_recipes.py:mine", "~/own_recipes.py:mine", "own_recipes.py:mine", "./own_recipes.py:mine"])
def test_a_recipe_in_a_file_of_the_user_is_found(name: str, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(own))
    monkeypatch.chdir(own)
    build = find_recipe(name.format(folder=own), RECIPES["text"])
    assert build() == RECIPES["text"]["text_tiny"]() and build.__name__ == "mine"
    assert find_recipe(name.format(folder=own), {}) is build and sys.path.count(str(own)) == 1, "its folder is searched, once"


def test_a_shipped_name_has_priority_and_nothing_is_imported_for_it() -> None:
    before = list(sys.path)
    assert find_recipe("text_tiny", RECIPES["text"]) is RECIPES["text"]["text_tiny"] and sys.path == before


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("text_huge", r"unknown; there are text_tiny, text_small, .*, or FILE\.py:FUNCTION for one of your own"),
        ("text_tinny", r"unknown; did you mean text_tiny\? there are text_tiny"),
        ("vision_tiny", r"a recipe of modality vision, for launch/\*_vision\.py; here there are text_tiny"),
        ("own_recipes:mine", r"unknown; there are text_tiny"),
        ("own_recipes.py", r"no function in it; name FILE\.py:FUNCTION"),
        ("broken_recipes.py:mine", r"broken_recipes\.py cannot be imported \(No module named 'nowhere'\)"),
        ("wrong_recipes.py:mine", r"wrong_recipes\.py cannot be imported \(invalid syntax"),
        ("nowhere.py:mine", r"there is no file /.*/nowhere\.py; name FILE\.py:FUNCTION"),
        ("own_recipes.py:yours", r"own_recipes\.py has no function 'yours'; name FILE\.py:FUNCTION"),
        ("own_recipes.py:number", r"own_recipes\.py has no function 'number'"),
        ("own_recipes.py:", r"own_recipes\.py has no function ''; name"),
        ("my.own.py:mine", r"Python imports no file with a dot in its name; give my\.own\.py another one"),
        ("json.py:mine", r"Python has another module json \(.*json/__init__\.py\); give the file another name"),
        ("time.py:mine", r"Python has another module time \(built-in\); give the file another name"),
    ],
)
def test_a_recipe_that_cannot_be_found_is_a_one_line_error(name: str, complaint: str, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    for taken in ("json", "time", "my.own"):
        (own / f"{taken}.py").write_text(OWN)
    with pytest.raises(ConfigError, match=f"^--recipe {re.escape(name)}: {complaint}") as caught:
        find_recipe(name, RECIPES["text"])
    assert "\n" not in str(caught.value)


def test_recipes_are_built_without_torch(tmp_path: Path) -> None:
    program = "import sys; from recipes.catalog import RECIPES; [build() for recipes in RECIPES.values() for build in recipes.values()]; "
    program += "print({'torch', 'numpy', 'deepspeed'} & set(sys.modules))"
    done = run_command([sys.executable, "-c", program], tmp_path, 30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")
