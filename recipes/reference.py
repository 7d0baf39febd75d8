"""The documentation of every setting, made from the code: text for `--help-set`, and docs/settings.md (`make docs`). Torch-free.

What a setting means is the docstring below its field; what a ds_config key means stands in recipes/ds_keys.py."""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache, reduce
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

from model.bounds import Bounds
from recipes.config import Recipe
from recipes.ds_keys import KEYS, NOT_NEEDED, UNTESTED
from recipes.errors import ConfigError
from recipes.modalities.registry import MODALITIES
from recipes.objective_kinds import OBJECTIVES
from recipes.settings import walk_settings
from recipes.suggestions import close_matches, similar_names
from recipes.values import text_of_value, type_in_words

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
DS_CONFIG = "ds_config"
INTRODUCTION = """# Settings

A number has one owner. The recipe owns what is learned; a file of `ds_configs/` owns how it runs.

- A recipe setting is changed by `--set optim.lr=3e-4`, or in a recipe function of your own (`--recipe my_recipes.py:text_mine`).
- A ds_config key is changed in a copy of the JSON file, named by `--deepspeed_config`.
- The terminal shows the same text: `--help-set optim`, `--help-set mask.prob`, `--help-set zero_optimization`.
- Defaults below are those of the classes. A recipe gives its own values; `--help-set` and `--dry-run` show them.

This page is made from the code by `make docs`. Change the docstring below the field, not the page.
"""


@dataclass(frozen=True)
class SettingDoc:
    """What the documentation says about one setting of a recipe or one key of a ds_config."""

    name: str
    values: str
    """Type and bounds in words."""
    default: str
    """The default as text; "" if there is none."""
    meaning: str
    owner: str = ""
    """The recipe's setting that owns the number, for a ds_config key that may only be "auto"."""

    @property
    def allowed(self) -> str:
        """Allowed values and default in one phrase. If the recipe owns the number, a phrase that says so and names the --set that
        changes it."""
        owner = f'the recipe owns it: "auto" here, --set {self.owner} changes it' if self.owner else self.values
        return f"{owner}; default {self.default}" if self.default and not self.owner else owner


def document_section(section: Any, prefix: str) -> list[SettingDoc]:
    """Return the documentation of all settings of a section, and of sections inside it. The values of the instance `section` are shown as
    defaults. `prefix` is its dotted name."""
    found = list[SettingDoc]()
    for name, value, hint, notes in walk_settings(section):
        *outer, key = name.split(".")
        words = [type_in_words(hint), *(str(note) for note in notes if isinstance(note, Bounds))]
        kind: Any = type(reduce(getattr, outer, section))
        found.append(SettingDoc(f"{prefix}.{name}", ", ".join(words), text_of_value(value), field_docs(kind).get(key, "")))
    return found


@cache
def field_docs(kind: type) -> dict[str, str]:
    """Return field name -> the docstring below it, as one line. They are read from the source of the class and its bases."""
    found: dict[str, str] = {}
    for base in reversed([one for one in kind.__mro__ if is_dataclass(one)]):
        body = next(node for node in ast.parse(textwrap.dedent(inspect.getsource(base))).body if isinstance(node, ast.ClassDef)).body
        for item, below in pairwise(body):
            doc = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
            if isinstance(item, ast.AnnAssign) and isinstance(doc, str):
                found[ast.unparse(item.target)] = " ".join(doc.split())
    return found


def document_keys(prefix: str = "") -> list[SettingDoc]:
    """Return the documentation of the ds_config key `prefix` and the keys below it; of all keys if `prefix` is empty."""
    chosen = {name: key for name, key in KEYS.items() if not prefix or _is_within(name, prefix)}
    return [SettingDoc(name, key.what.partition(":")[0], key.default, key.meaning, key.owner or "") for name, key in chosen.items()]


def _is_within(name: str, section: str) -> bool:
    return f"{name}.".startswith(f"{section}.")


def help_set(recipe: Recipe, asked: str, width: int) -> str:
    """Return what `--help-set asked` prints: a section or a setting of the recipe, a key of a ds_config, or the list of sections if
    `asked` is empty. Values are the recipe's. `width`: characters of a line.

    Raises: ConfigError if there is no such section or setting.
    """
    sections = {name: value for name, value in vars(recipe).items() if is_dataclass(value) and getattr(value, "is_in_use", True)}
    if not asked:
        return "\n".join(_list_sections(sections, width))
    settings = [doc for name, section in sections.items() for doc in document_section(section, name)]
    chosen = [doc for doc in settings if _is_within(doc.name, asked)] or document_keys("" if asked == DS_CONFIG else asked)
    if not chosen:
        known = [*sections, DS_CONFIG, *(doc.name for doc in settings), *KEYS]
        near = close_matches(asked, known)[:1] or similar_names(asked, [doc.name for doc in settings])[:1]
        hint = f"did you mean {near[0]}?" if near else f"sections are {', '.join([*sections, DS_CONFIG])}"
        raise ConfigError(f"--help-set {asked}: recipe {recipe.name} and the ds_config have no such section or setting; {hint}")
    heading = [f"{asked}: {_sentence(sections[asked])}"] if asked in sections else []
    return "\n".join([*_wrapped(heading, width), *(line for doc in chosen for line in _entry(doc, width))])


def _list_sections(sections: Mapping[str, Any], width: int) -> Iterator[str]:
    for name, section in sections.items():
        yield from _wrapped([f"{name}: {_sentence(section)}"], width)
    yield f"{DS_CONFIG}: keys of the JSON file named by --deepspeed_config"
    yield "--help-set SECTION shows what is in one, --help-set SECTION.NAME one setting"


def _sentence(section: Any) -> str:
    return " ".join((section.__doc__ or "").split())


def _wrapped(lines: Iterable[str], width: int, indent: str = "") -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, width, initial_indent=indent, subsequent_indent=indent or "  ")]


def _entry(doc: SettingDoc, width: int) -> list[str]:
    head = f"{doc.name}={doc.default}" if doc.default and not doc.owner else doc.name
    return [*_wrapped([f"{head}  ({doc.allowed if doc.owner else doc.values})"], width, "  "), *_wrapped([doc.meaning], width, "      ")]


def settings_page() -> str:
    """Return the text of docs/settings.md."""
    parts = [INTRODUCTION, "## The recipe\n"]
    for name, classes in _section_classes().items():
        parts.append(f"### {name}\n")
        for kind in classes:
            kind_name = getattr(kind, "kind", None)
            title = f"**`kind` {kind_name}.** " if kind_name else ""
            parts.append(f"{title}{_sentence(kind)}\n")
            parts.append("".join(map(_bullet, document_section(kind(), name))) or "No settings of its own.\n")
    parts += ["## The ds_config\n", "Keys of DeepSpeed's JSON that are tested here, and our section `megatron`.\n"]
    parts.append("".join(map(_bullet, document_keys())))
    parts += ["### Keys that are not needed\n", "They are refused with the remedy, unless they are switched off.\n"]
    parts.append("".join(f"- `{name}`: {remedy}.\n" for name, remedy in NOT_NEEDED.items()))
    parts += ["### Keys that are not tested\n", "They are refused, unless they are switched off.\n"]
    parts.append("".join(f"- `{name}`\n" for name in sorted(UNTESTED)))
    return "\n".join(parts)


def _section_classes() -> Mapping[str, list[type]]:
    """Return each section's name in the recipe -> the classes that it may have, over all modalities of this repository. A modality that a
    user's file has added to the table is left out."""
    own = [modality for modality in MODALITIES.values() if type(modality).__module__.startswith("recipes.")]
    found: dict[str, list[type]] = {
        name: [hint] for name, hint in get_type_hints(Recipe).items() if isinstance(hint, type) and is_dataclass(hint)
    }
    for name in ("frontend", "mask", "data"):
        found[name] = [kind for modality in own for kind in modality.kinds[name]]
    return found | {"objective": list(OBJECTIVES.values())}


def _bullet(doc: SettingDoc) -> str:
    return f"- **`{doc.name}`** ({doc.allowed}). {doc.meaning}\n"


def main() -> None:
    """Write docs/settings.md."""
    PAGE.write_text(settings_page())


if __name__ == "__main__":
    main()
