"""Faults to plant into the code, one at a time: those of the lists in tests/**/planted.toml, and generated ones. Also finds the tests
that use a module. Runs nothing.

A list is in the folder of the tests that mirror the code: tests/recipes/train/planted.toml has faults of recipes/train/.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

LIST = "planted.toml"
KEYS = {"fault", "old", "new", "harmless"}


@dataclass(frozen=True)
class Planted:
    """One fault: its file, a description, and the whole text of the file with the fault."""

    path: str
    """Relative to the repository's root, with slashes."""
    fault: str
    text: str
    harmless: str = ""
    """Why no test can find it; empty for a fault that a test must find."""


def listed(root: Path) -> list[Planted]:
    """Return all faults of the lists below `root`/tests. Raises: ValueError for an entry that does not fit the code (see planted_in)."""
    return [fault for path in sorted((root / "tests").rglob(LIST)) for fault in planted_in(root, path)]


def planted_in(root: Path, path: Path) -> list[Planted]:
    """Return the faults of one list, in its order.

    Raises: ValueError if an entry has keys other than `fault`, `old`, `new` and optionally `harmless`, its module does not exist, `old`
    is not in it exactly once, or the module with the fault is not valid Python.
    """
    folder = path.parent.relative_to(root / "tests")
    return [
        _planted(root, folder / f"{module}.py", entry) for module, entries in tomllib.loads(path.read_text()).items() for entry in entries
    ]


def _planted(root: Path, path: Path, entry: dict[str, str]) -> Planted:
    name = f"tests/{path.parent}/{LIST}, {path.name}: {entry.get('fault')}"
    if not {"fault", "old", "new"} <= entry.keys() <= KEYS:
        raise ValueError(f"{name}: has the keys {', '.join(entry)}; they are fault, old, new and, where no test can see it, harmless")
    if not (root / path).is_file():
        raise ValueError(f"{name}: there is no {path}; a list in tests/FOLDER holds faults of FOLDER, under the names of its modules")
    source = (root / path).read_text()
    if entry["old"] == entry["new"]:
        raise ValueError(f"{name}: `new` is `old`, so nothing is wrong then")
    if (count := source.count(entry["old"])) != 1:
        raise ValueError(f"{name}: `old` is {count} times in {path}; give as much of the code as makes it unique")
    text = source.replace(entry["old"], entry["new"])
    try:
        ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{name}: {path} with it is no Python ({error})") from None
    return Planted(path.as_posix(), entry["fault"], text, entry.get("harmless", ""))


Cut = tuple[int, int, bytes]
"""(first byte, byte after the last, replacement)."""


class WiringFaults:
    """Generated faults in the calls between this repository's functions: an argument is left out, so that its default is used; a call is
    left out; two calls are swapped. Mutation tools change operators and numbers, and make none of these."""

    def __init__(self, root: Path, paths: list[str]) -> None:
        """`paths`: every file of the repository; their definitions show which arguments have defaults."""
        self._root = root
        self._defaults: dict[str, list[tuple[list[str], set[str]]]] = {}
        for path in paths:
            for node in ast.walk(ast.parse((root / path).read_text())):
                self._learn(node)

    def of(self, path: str) -> Iterator[Planted]:
        """Yield every such fault of one file."""
        source = (self._root / path).read_bytes()
        starts = [0, *(match.end() for match in re.finditer(rb"\n", source))]

        def span(node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
            assert node.end_lineno is not None and node.end_col_offset is not None
            return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                for argument, name in self._optional(node):
                    cut = _with_comma(source, *span(argument))
                    yield _cut(path, source, f"line {node.lineno}: {ast.unparse(node.func)}() without {name}", [cut])
        for first, second in _calls(tree):
            (start, end), line = span(first), first.lineno
            yield _cut(path, source, f"line {line}: without {ast.unparse(first)}", [(start, end, b"pass")])
            if second is not None:
                begin, stop = span(second)
                swapped = [(start, end, source[begin:stop]), (begin, stop, source[start:end])]
                yield _cut(path, source, f"line {line}: {ast.unparse(first)} after {ast.unparse(second)}", swapped)

    def _learn(self, node: ast.AST) -> None:
        if isinstance(node, ast.ClassDef):
            fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)]
            inits = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
            names = [f.target.id for f in fields if isinstance(f.target, ast.Name)]
            optional = {f.target.id for f in fields if isinstance(f.target, ast.Name) and f.value is not None}
            self._defaults.setdefault(node.name, []).append(_parameters(inits[0]) if inits else (names, optional))
        elif isinstance(node, ast.FunctionDef):
            self._defaults.setdefault(node.name, []).append(_parameters(node))

    def _optional(self, call: ast.Call) -> Iterator[tuple[ast.expr | ast.keyword, str]]:
        """Yield the arguments of a call that may be left out: keywords, and the last positional argument."""
        name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr if isinstance(call.func, ast.Attribute) else ""
        known = self._defaults.get(name, [])
        for keyword in call.keywords:
            if keyword.arg and any(keyword.arg in optional for _, optional in known):
                yield keyword, keyword.arg
        if len(known) == 1 and call.args and not any(isinstance(arg, ast.Starred) for arg in call.args):
            names, optional = known[0]
            if len(call.args) <= len(names) and names[len(call.args) - 1] in optional:
                yield call.args[-1], names[len(call.args) - 1]


def _parameters(node: ast.FunctionDef) -> tuple[list[str], set[str]]:
    """Return (positional parameters without self, all parameters with a default)."""
    positional = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
    optional = set(positional[len(positional) - len(node.args.defaults) :])
    optional |= {arg.arg for arg, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if value is not None}
    return [name for name in positional if name not in ("self", "cls")], optional


def _calls(tree: ast.AST) -> Iterator[tuple[ast.Expr, ast.Expr | None]]:
    """Yield statements that are a single call, each with the next statement if that is a call too."""
    bodies = [getattr(node, name, None) for node in ast.walk(tree) for name in ("body", "orelse", "finalbody")]
    for body in (body for body in bodies if isinstance(body, list)):
        for statement, following in zip(body, [*body[1:], None], strict=False):
            if _is_call(statement):
                yield statement, following if _is_call(following) else None


def _is_call(statement: ast.stmt | None) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)


def _with_comma(source: bytes, start: int, end: int) -> Cut:
    """Return the cut of an argument with its comma."""
    if after := re.match(rb"\s*,\s*", source[end:]):
        return start, end + after.end(), b""
    if before := re.search(rb",\s*$", source[:start]):
        return before.start(), end, b""
    return start, end, b""


def _cut(path: str, source: bytes, fault: str, cuts: list[Cut]) -> Planted:
    for start, end, new in sorted(cuts, reverse=True):
        source = source[:start] + new + source[end:]
    ast.parse(source)
    return Planted(path, fault, source.decode())


LEFT_OUT = "Variable|RemoveDecorator|BinaryOperator_(?!Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_FloorDiv|Pow_Mul)"
"""Operators of cosmic-ray that are left out: they need arguments, break the import of a module (annotations, dataclasses), or replace an
operator by one that is never written by mistake."""


def mutants(root: Path, path: str) -> Iterator[Planted]:
    """Yield the mutants of a file that cosmic-ray makes (operators, numbers, conditions, loops, exceptions)."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    source = (root / path).read_text()
    for name in operator_names():
        if re.search(LEFT_OUT, name):
            continue
        operator, occurrence = get_operator(name)(), 0
        while (text := mutate_code(source, operator, occurrence)) is not None:
            pairs = enumerate(zip_longest(source.splitlines(), text.splitlines(), fillvalue=""), 1)
            changed, line = next((number, new.strip()) for number, (old, new) in pairs if old != new)
            yield Planted(path, f"line {changed}: {name.rpartition('/')[2]}: {line}", text)
            occurrence += 1


def imports_of_tests(root: Path) -> dict[str, set[str]]:
    """Return test file -> modules of this repository that it mentions, directly or through the helpers in tests/ that it imports."""
    mentions = {path.relative_to(root).as_posix(): _mentions(path.read_text()) for path in sorted((root / "tests").rglob("*.py"))}

    def follow(name: str, seen: set[str]) -> set[str]:
        helpers = {f"{module.replace('.', '/')}.py" for module in mentions[name] if module.startswith("tests.")} & mentions.keys()
        return mentions[name].union(*(follow(helper, seen | {name}) for helper in helpers - seen - {name}))

    return {name: follow(name, set()) for name in mentions if Path(name).name.startswith("test_")}


def _mentions(text: str) -> set[str]:
    found = set(re.findall(r"\b(?:tests|model|recipes)(?:\.\w+)+", text))
    for package, names in re.findall(r"from ((?:tests|model|recipes)[\w.]*) import ([\w, ]+)", text):
        found |= {f"{package}.{name.split(' as ')[0].strip()}" for name in names.split(",")}
    return found
