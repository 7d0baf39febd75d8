"""Every recipe by modality, each modality's default, and recipes from files outside of the repository. Torch-free."""

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.modalities.registry import MODALITIES
from recipes.suggestions import did_you_mean

RECIPES: dict[str, Mapping[str, Callable[[], Recipe]]] = {name: modality.recipes for name, modality in MODALITIES.items()}


def default_recipe(modality: str) -> str:
    """Return the name of the modality's recipe that runs if --recipe is not given: the one that trains in minutes."""
    return f"{modality}_tiny"


def _unknown(name: str, recipes: Iterable[str]) -> str:
    modality = next((modality for modality, others in RECIPES.items() if name in others), None)
    if modality:
        return f"a recipe of modality {modality}, for launch/*_{modality}.py; here "
    return f"unknown; {did_you_mean(name, recipes)}"


def find_recipe(name: str, recipes: Mapping[str, Callable[[], Recipe]]) -> Callable[[], Recipe]:
    """Return the function that makes the recipe `name`, the value of --recipe: a key of `recipes`, or FILE.py:FUNCTION. In the second
    case the file is imported, and its folder is put on sys.path.

    Raises: ConfigError if there is no such recipe, file or function, or the file cannot be imported.
    """
    if name in recipes:
        return recipes[name]
    file, _, function = name.rpartition(":")
    if name.endswith(".py"):
        raise ConfigError(f"--recipe {name}: no function in it; name FILE.py:FUNCTION")
    if not file.endswith(".py"):
        here = f"there are {', '.join(recipes)}, or FILE.py:FUNCTION for one of your own"
        raise ConfigError(f"--recipe {name}: {_unknown(name, recipes)}{here}")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"--recipe {name}: there is no file {path}; name FILE.py:FUNCTION")
    if "." in path.stem:
        raise ConfigError(f"--recipe {name}: Python imports no file with a dot in its name; give {path.name} another one")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        module = importlib.import_module(path.stem)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(f"--recipe {name}: {path.name} cannot be imported ({error}); correct it") from None
    found = getattr(module, "__file__", None) or "built-in"
    if Path(found).resolve() != path:
        raise ConfigError(f"--recipe {name}: Python has another module {path.stem} ({found}); give the file another name")
    build = getattr(module, function, None)
    if not callable(build):
        raise ConfigError(f"--recipe {name}: {path.name} has no function {function!r}; name FILE.py:FUNCTION")
    return build
