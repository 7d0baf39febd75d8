"""The rules of this repository as functions: from a parsed file to the breaches in it (dependencies, sizes, docstrings, words).
test_house.py applies them to the repository and to made-up breaches. Rules that ruff has are left to ruff."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from sys import stdlib_module_names

MAX_FILE_LINES = {"launch/*.py": 40, "launch/*.sbatch": 60, "*": 300}
"""Path pattern -> maximum lines of a file. The first pattern that fits counts."""
MAX_FUNCTION_LINES = 50  # without its docstring
MAX_POSITIONAL = 6
MAX_FIELDS = 16
MAX_NESTING = 3

ONLY_IN = {
    "megatron.core.parallel_state": ["model/parallel.py"],
    "deepspeed": ["recipes/engine/*", "benchmarks/host_time.py"],  # which counts what it sends
    "wandb": ["recipes/train/mirror.py"],
}
"""Library -> path patterns of the only files that may import it. Tests may import anything but launch."""
MAY_IMPORT = {
    "model/*": ["torch", "numpy", "megatron.core", "model"],
    "launch/*": ["recipes"],
}
"""Path pattern -> what its files may import besides the standard library."""
MUST_NOT_IMPORT = {"*": ["launch"]}
"""Path pattern -> what its files must not import. import-linter (pyproject.toml) checks which folder may import which, also indirectly."""

MODALITIES = {"text", "speech", "vision"}
NO_MODALITY_BRANCH = ["recipes/train/*", *(f"model/{name}.py" for name in ("student", "teacher", "targets", "loss", "encoder", "layers"))]

OBJECTIVE_WORDS = re.compile(r"\b(teacher|shadow|ema|mask|masked|masks)s?\b", re.I)
NO_OBJECTIVE_WORDS = [f"recipes/{name}/*" for name in ("train", "checkpoint", "engine", "watch", "run_dir", "ledger", "cluster", "job")]

PRIVATE_WORDS = {
    r"meets?|met|meetings?": "rendezvous, join",
    r"hears?|heard|hearing": "get, read, receive",
    r"tells?|told|telling": "report, print, send, write, show",
    r"last words?": "ending record",
    r"roll ?calls?|call roll": "roster",
    r"no word|without a word": "without a record",
    r"verdicts?": "the result's own name, such as findings, report, decision",
    r"deeds?": "action",
    r"charges?|charged": "watch target, counts as",
    r"deaf\w*": "signals blocked",
    r"thief|thieves": "new owner",
    r"mend(s|ed|ing)?": "fix, correct",
    r"twins?": "duplicate, pair",
    r"whoever|whomever": "the caller, the process that",
    r"knows|knew": "has, records, contains",
    r"speaks?|spoken|spoke": "prints, reports",
    r"nobody|somebody|someone": "no process, no file, one",
    r"cry wolf": "raise false alarms",
}
"""Pattern of words that need decoding -> what to say instead. One name, one meaning; processes do not speak, hear or know."""
WORDS_STAY_IN = ("tests/house.py", "tests/test_house.py", "CHANGELOG.md", "recipes/samples/*", "tests/old_runs/*", "tests/soak/cases.toml")
"""Files in which PRIVATE_WORDS may be used: this list and its test, history, data, and the output of scripts outside of the repository."""
ANY_PRIVATE_WORD = re.compile(rf"\b({'|'.join(PRIVATE_WORDS)})\b", re.I)
PROSE_FILES = ("*.py", "*.md", "*.sbatch", "*.toml", "ds_configs/*.json", "Makefile", ".ci/run", "tests/slurm/slurm-*")

INIT_WITH_CODE = ("recipes/interop/__init__.py",)
"""The only __init__.py that hold code: the function for other programs, load_encoder."""

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.Match)  # `with` indents, but decides nothing
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One file: its path from the repository's root with slashes, its text and its syntax tree (empty if it is not Python)."""

    path: str
    text: str
    tree: ast.Module

    @staticmethod
    def of(path: str, text: str) -> "Source":
        """Parse the text of a file. Raises: SyntaxError if a .py file is not valid Python."""
        return Source(path, text, ast.parse(text if path.endswith(".py") else ""))

    def fits(self, *patterns: str) -> bool:
        """True if the path matches one of the patterns; `*` also matches slashes."""
        return any(fnmatch(self.path, pattern) for pattern in patterns)

    def breach(self, node: ast.AST, text: str) -> str:
        """Return `path:line: text`, which editors turn into a link to the line of `node`."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {text}"


def read_sources(root: Path) -> list[Source]:
    """Read and parse every Python file and batch script of the repository."""
    files = [path for folder in ("model", "recipes", "launch", "benchmarks", "tests") for path in sorted((root / folder).rglob("*"))]
    return [Source.of(path.relative_to(root).as_posix(), path.read_text()) for path in files if path.suffix in (".py", ".sbatch")]


def check_imports(source: Source) -> Iterator[str]:
    """Yield the imports that a file must not have: those of a wrong folder, and those of libraries that only few files may use."""
    for node, name in imports(source):
        for pattern, forbidden in MUST_NOT_IMPORT.items():
            if source.fits(pattern) and _is_in(name, forbidden):
                yield source.breach(node, f"{pattern} must not import {name}")
        if source.fits("tests/*"):
            continue
        for library, owners in ONLY_IN.items():
            if _is_in(name, [library]) and not source.fits(*owners):
                yield source.breach(node, f"{name} is imported only in {', '.join(owners)}")
        for pattern, allowed in MAY_IMPORT.items():
            if source.fits(pattern) and name.partition(".")[0] not in stdlib_module_names and not _is_in(name, allowed):
                yield source.breach(node, f"{pattern} imports {', '.join(allowed)} and the standard library only, not {name}")


def check_modality_branches(source: Source) -> Iterator[str]:
    """Yield the conditions that depend on the modality, in files that must be the same for all modalities."""
    if not source.fits(*NO_MODALITY_BRANCH):
        return
    for node in ast.walk(source.tree):
        asked: list[ast.AST] = [node] if isinstance(node, ast.Compare | ast.MatchValue) else []
        asked += [node.test] if isinstance(node, ast.If | ast.IfExp | ast.While) else []
        asked += [node.subject] if isinstance(node, ast.Match) else []
        if any(_names_modality(part) for whole in asked for part in ast.walk(whole)):
            yield source.breach(node, "asks for the modality; give the caller's object a method instead")


def check_objective_words(source: Source) -> Iterator[str]:
    """Yield the words of one objective, such as teacher or mask, in files that must be the same for all objectives."""
    if not source.fits(*NO_OBJECTIVE_WORDS):
        return
    for number, line in enumerate(source.text.splitlines(), 1):
        for found in OBJECTIVE_WORDS.finditer(line):
            yield f"{source.path}:{number}: names {found[0]!r}, which is an objective's; go through recipes/objectives/base.py"


def private_words(path: str, text: str) -> Iterator[str]:
    """Yield the words of PRIVATE_WORDS in a file with text or code. Parts of a name count as words (`_hear`, `LastWords`)."""
    if not any(fnmatch(path, pattern) for pattern in PROSE_FILES) or any(fnmatch(path, pattern) for pattern in WORDS_STAY_IN):
        return
    for number, line in enumerate(text.splitlines(), 1):
        words = re.sub(r"\w+\.tell\(\)|def tell\(self\)", "", line)  # the position in a file, in Python's own words
        words = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", words)
        for found in ANY_PRIVATE_WORD.finditer(words):
            better = next(better for pattern, better in PRIVATE_WORDS.items() if re.fullmatch(pattern, found[0], re.I))
            yield f"{path}:{number}: {found[0]!r}; say {better}"


def check_size(source: Source) -> Iterator[str]:
    """Yield files, functions, parameter lists, dataclasses and nestings that exceed their maximum size."""
    lines = len(source.text.splitlines())
    budget = next(budget for pattern, budget in MAX_FILE_LINES.items() if source.fits(pattern))
    if lines > budget:
        yield source.breach(source.tree, f"{lines} lines, at most {budget}; split it by nouns")
    for node in ast.walk(source.tree):
        if isinstance(node, FUNCTIONS):
            yield from _function_size(source, node)
        elif isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
            fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and "ClassVar" not in ast.unparse(f.annotation)]
            if len(fields) > MAX_FIELDS:
                yield source.breach(node, f"dataclass {node.name} has {len(fields)} fields, at most {MAX_FIELDS}")


def check_docstrings(source: Source) -> Iterator[str]:
    """Yield modules, and public names of model/ and recipes/, without a docstring; also an __init__.py that is not empty, except for
    those of INIT_WITH_CODE, which import nothing but the standard library at their top."""
    if source.fits("*__init__.py") and not (source.path in INIT_WITH_CODE and not _costs_time(source)):
        if source.text.strip():
            yield source.breach(source.tree, "an __init__.py is empty, so that importing a package costs nothing")
        return
    if source.path.endswith(".py") and ast.get_docstring(source.tree) is None:
        yield source.breach(source.tree, "module without a docstring: what it holds, and what it deliberately does not")
    if source.fits("model/*", "recipes/*"):
        for node in _public(source.tree):
            docstring = ast.get_docstring(node)
            if docstring is None:
                yield source.breach(node, f"{node.name} is public and has no docstring")
            elif docstring.startswith(("Shapes:", "Source:", "See ")):
                yield source.breach(
                    node, f"the docstring of {node.name} begins with {docstring.split()[0]}; first say what it does or returns"
                )


def check_habits(source: Source) -> Iterator[str]:
    """Yield a file named utils.py, each `global`, and each handler that swallows every exception."""
    if source.fits("utils.py", "*/utils.py"):
        yield source.breach(source.tree, "name the noun that it holds (shapes.py, env.py)")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Global):
            yield source.breach(node, f"global {', '.join(node.names)}: pass an object instead")
        if isinstance(node, ast.ExceptHandler) and not source.fits("tests/*") and _swallows_all(node):
            yield source.breach(node, "catches every exception without raising it again; name the ones that are expected")


FILE_CHECKS = (check_imports, check_modality_branches, check_objective_words, check_size, check_docstrings, check_habits)


def repeated_classes(sources: list[Source]) -> list[str]:
    """Return a text for each public class name of model/ and recipes/ that is used in more than one file: one name has one meaning."""
    places: dict[str, list[str]] = {}
    product = [source for source in sources if source.fits("model/*", "recipes/*")]
    for source, node in ((one, node) for one in product for node in one.tree.body):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            places.setdefault(node.name, []).append(source.path)
    return [f"class {name} is in {', '.join(paths)}" for name, paths in places.items() if len(paths) > 1]


def missing_tests(paths: list[str]) -> list[str]:
    """Return the paths of test files that are missing for the modules among `paths`: model/loss.py needs tests/model/test_loss.py."""
    modules = [Path(path) for path in paths if fnmatch(path, "model/*.py") or fnmatch(path, "recipes/*.py")]
    wanted = [Path("tests", m.parent, f"test_{m.name}").as_posix() for m in modules if m.name != "__init__.py"]
    return [path for path in wanted if path not in paths]


def imports(source: Source) -> Iterator[tuple[ast.AST, str]]:
    """Yield every imported name in full with its node: also imports inside functions, relative ones, by import_module, or as an
    attribute."""
    package = source.path.split("/")[:-1]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield from ((node, ".".join([*base, *filter(None, [node.module]), alias.name])) for alias in node.names)
        elif isinstance(node, ast.Attribute) and node.attr == "parallel_state":
            yield node, "megatron.core.parallel_state"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((node, str(arg.value)) for arg in node.args if isinstance(arg, ast.Constant))


def _costs_time(source: Source) -> bool:
    """True if the file imports more than the standard library when it is imported itself."""
    top = [node for node in source.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [name for node in top for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or "."])]
    return any(name.partition(".")[0] not in stdlib_module_names for name in names)


def _is_in(name: str, packages: list[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def _names_modality(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return node.value in MODALITIES
    return (isinstance(node, ast.Name) and node.id == "modality") or (isinstance(node, ast.Attribute) and node.attr == "modality")


def _function_size(source: Source, node: Function) -> Iterator[str]:
    first = node.body[0]
    docstring = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) is not None else 0
    lines = (node.end_lineno or 0) - node.lineno + 1 - docstring
    if lines > MAX_FUNCTION_LINES:
        yield source.breach(node, f"{node.name} has {lines} lines without its docstring, at most {MAX_FUNCTION_LINES}")
    positional = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
    positional = positional[1:] if positional[:1] in (["self"], ["cls"]) else positional
    if len(positional) > MAX_POSITIONAL and not node.name.startswith("test_"):  # pytest's fixtures and parameters come by name
        text = f"takes {len(positional)} positional arguments, at most {MAX_POSITIONAL}; put a * before the rest"
        yield source.breach(node, f"{node.name} {text}")
    depth = _nesting(node.body)
    if depth > MAX_NESTING:
        yield source.breach(node, f"{node.name} nests {depth} blocks, at most {MAX_NESTING}")


def _nesting(body: list[ast.stmt]) -> int:
    """Return how deep the blocks of a function are nested. An elif is not deeper than its if; inner functions are not counted."""
    depth = 0
    for node in body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            continue
        for _, value in ast.iter_fields(node):
            inner = [v for v in value if isinstance(v, ast.AST)] if isinstance(value, list) else []
            inner = [s for v in inner for s in (v.body if isinstance(v, ast.ExceptHandler | ast.match_case) else [v])]
            statements = [v for v in inner if isinstance(v, ast.stmt)]
            is_elif = isinstance(node, ast.If) and value is node.orelse and len(value) == 1 and isinstance(value[0], ast.If)
            depth = max(depth, _nesting(statements) + (isinstance(node, BLOCKS) and not is_elif) if statements else 0)
    return depth


def _public(tree: ast.Module) -> Iterator[Function | ast.ClassDef]:
    """Yield the public functions and classes of a module, and the public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            methods = node.body if isinstance(node, ast.ClassDef) else []
            yield from (m for m in methods if isinstance(m, FUNCTIONS) and not m.name.startswith("_"))


def _swallows_all(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    everything = any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in caught)
    return everything and not isinstance(handler.body[-1], ast.Raise)
