"""Every recipe that is shipped: consistent, named after itself, found by its modality, and built without torch."""

import sys
from pathlib import Path

import pytest

from recipes.catalog import RECIPES, default_recipe
from recipes.check import check_recipe
from tests.distributed import run_command

NAMES = [(modality, name) for modality, recipes in RECIPES.items() for name in recipes]


@pytest.mark.parametrize(("modality", "name"), NAMES)
def test_a_recipe_is_consistent_and_bears_its_name(modality: str, name: str) -> None:
    recipe = RECIPES[modality][name]()
    check_recipe(recipe)
    assert (recipe.name, recipe.modality, recipe.data.path) == (name, modality, None)


def test_the_products_recipes_are_there_and_no_name_stands_twice() -> None:
    names = [name for _, name in NAMES]
    assert {f"{modality}_{size}" for modality in ("text", "speech", "vision") for size in ("tiny", "base", "large")} <= set(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("modality", RECIPES)
def test_the_default_is_tiny_and_its_batch_divides_over_eight_ranks(modality: str) -> None:
    recipe = RECIPES[modality][default_recipe(modality)]()
    assert recipe.name == f"{modality}_tiny" and recipe.run.global_batch_size % 8 == 0


@pytest.mark.parametrize(("modality", "name"), NAMES)
def test_a_docstring_says_how_to_run_it_or_whose_variant_it_is(modality: str, name: str) -> None:
    doc = RECIPES[modality][name].__doc__ or ""
    assert f"launch/pretrain_{modality}.py" in doc or "Base" in doc
    assert name.endswith("tiny") or "Not yet run here" in doc or "paper" in doc


def test_recipes_are_built_without_torch(tmp_path: Path) -> None:
    program = "import sys; from recipes.catalog import RECIPES; [build() for recipes in RECIPES.values() for build in recipes.values()]; "
    program += "print({'torch', 'numpy', 'deepspeed'} & set(sys.modules))"
    done = run_command([sys.executable, "-c", program], tmp_path, 30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")
