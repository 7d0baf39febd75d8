"""The house rules hold in this repository, and each of them can fail: every rule has a made-up breach beside it."""

import ast
import importlib.machinery
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from tests.distributed import run_command
from tests.house import FILE_CHECKS, Source, imports, missing_tests, private_words, read_sources, repeated_classes

ROOT = Path(__file__).parent.parent
SOURCES = read_sources(ROOT)
RECIPE_FILES = ("recipes/text.py", "recipes/speech.py", "recipes/vision.py")
TORCH_FREE = (
    *("model/bounds.py", "model/config.py", "model/frontends/config.py", *RECIPE_FILES),
    *(f"recipes/{name}.py" for name in ("config", "settings", "ds_config", "check", "catalog", "errors")),
    *(f"recipes/{name}/*.py" for name in ("plan", "scores", "modalities", "run_dir", "watch", "ledger", "job", "system")),
    *("recipes/checkpoint/layout.py", "recipes/checkpoint/inspect.py", "recipes/cluster/command.py", "recipes/train/cli.py"),
)
HEAVY = {"torch", "deepspeed", "megatron"}

LONG_BODY = "    x = 1\n" * 50
DEEP = """
def _f(x):
    for a in x:
        if a:
            try:
                pass
            except ValueError:
                while a:
                    a -= 1
"""
ELIFS = "def _f(x):\n    if x:\n        pass\n" + "".join(f"    elif x == {i}:\n        pass\n" for i in range(9))
BREACHES = [
    ("model/a.py", "import transformers", "only, not transformers"),
    ("model/a.py", "from recipes import config", "not recipes.config"),
    ("model/loss.py", "import deepspeed", "only, not deepspeed"),
    ("recipes/train/loop.py", "def f():\n    from deepspeed.utils import x", "deepspeed.utils.x is imported only in"),
    ("recipes/engine/build.py", "from megatron.core import parallel_state", "megatron.core.parallel_state is imported only in"),
    ("model/layers.py", "import megatron.core\nmegatron.core.parallel_state.x()", "megatron.core.parallel_state is imported only in"),
    ("recipes/data/a.py", "import importlib\nimportlib.import_module('wandb')", "wandb is imported only in"),
    ("recipes/train/a.py", "x = engines.teacher", "names 'teacher'"),
    ("recipes/checkpoint/a.py", "# the EMA weights", "names 'EMA'"),
    ("recipes/engine/a.py", "def _f(batch):\n    return batch.masks", "names 'masks'"),
    ("recipes/plan/a.py", "import launch.plan", "must not import launch"),
    ("tests/launch/test_plan.py", "from launch import plan", "must not import launch"),
    ("launch/a.py", "import torch", "launch/* imports recipes"),
    ("recipes/train/loop.py", "def f(r):\n    if r.modality in LIST:\n        pass", "asks for the modality"),
    ("recipes/train/a.py", "def f(kind):\n    return 1 if kind == 'speech' else 2", "asks for the modality"),
    ("model/student.py", "def f(x):\n    return x in ('text', 'vision')", "asks for the modality"),
    ("model/encoder.py", "def f(x):\n    match x:\n        case 'text':\n            pass", "asks for the modality"),
    ("model/a.py", "\n" * 300, "301 lines, at most 300"),
    ("launch/a.py", "\n" * 40, "41 lines, at most 40"),
    ("launch/a.sbatch", "#\n" * 61, "61 lines, at most 60"),
    ("tests/test_a.py", f"def f():\n{LONG_BODY}", "f has 51 lines"),
    ("model/a.py", "def f(a, b, c, d, e, f, g):\n    pass", "takes 7 positional"),
    ("model/a.py", "class A:\n    def f(self, a, b, c, d, e, f, g):\n        pass", "takes 7 positional"),
    ("model/a.py", DEEP, "nests 4 blocks"),
    ("model/config.py", "@dataclass(frozen=True)\nclass A:\n" + "".join(f"    f{i}: int\n" for i in range(17)), "has 17 fields"),
    ("model/a.py", "def f():\n    pass", "f is public and has no docstring"),
    ("recipes/a.py", "class A:\n    '''Doc.'''\n    def f(self):\n        pass", "f is public and has no docstring"),
    ("model/a.py", "def f(x):\n    '''Shapes: (B, D) -> (B, D).'''", "f begins with Shapes:; first say"),
    ("model/__init__.py", "from model.a import b", "an __init__.py is empty"),
    ("recipes/interop/__init__.py", "from recipes.interop.names import same", "an __init__.py is empty"),
    ("recipes/utils.py", "", "name the noun"),
    ("recipes/a.py", "def f():\n    global x\n    x = 1", "global x"),
    ("recipes/a.py", "try:\n    f()\nexcept:\n    pass", "catches every exception"),
    ("launch/a.py", "try:\n    f()\nexcept (ValueError, Exception):\n    pass", "catches every exception"),
]
FINE = [
    ("model/layers.py", "import torch\nfrom megatron.core import tensor_parallel"),
    ("recipes/train/preempt.py", "signal.pthread_sigmask(previous_mask)"),
    ("model/parallel.py", "from megatron.core import parallel_state"),
    ("recipes/train/mirror.py", "def f(modality):\n    '''Doc.'''\n    import wandb\n    return TABLE[modality]"),
    ("launch/pretrain_text.py", "import sys\nfrom recipes.train import loop"),
    ("recipes/finetune/a.py", "import transformers\nif recipe.modality == 'text':\n    pass"),
    ("tests/test_a.py", "import deepspeed, wandb\ndef test_f(a, b, c, d, e, f, g):\n    pass"),
    ("model/a.py", "def f(a, b, c, d, e, f, *, g, h):\n    '''Doc\n" + "\n" * 60 + "    '''\n"),
    ("model/a.py", ELIFS),
    ("recipes/a.py", "try:\n    f()\nexcept BaseException:\n    note()\n    raise"),
    ("recipes/a.py", "class A:\n    '''Doc.'''\n    limit: ClassVar[int] = 3\n    def __init__(self):\n        pass"),
    ("recipes/__init__.py", ""),
    ("recipes/interop/__init__.py", '"""Doc."""\nfrom pathlib import Path\ndef f():\n    """Doc."""\n    import torch'),
]


def breaches_of(source: Source) -> list[str]:
    return [breach for check in FILE_CHECKS for breach in check(source)]


@pytest.mark.parametrize("check", FILE_CHECKS, ids=lambda check: check.__name__)
def test_repository(check) -> None:
    found = [breach for source in SOURCES for breach in check(source)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(("path", "code", "message"), BREACHES)
def test_a_breach_is_found(path: str, code: str, message: str) -> None:
    found = breaches_of(Source.of(path, code if path.endswith(("__init__.py", ".sbatch")) else f'"""Doc."""\n{code}'))
    assert any(message in breach for breach in found), found


@pytest.mark.parametrize(("path", "code"), FINE)
def test_what_is_allowed_passes(path: str, code: str) -> None:
    assert not breaches_of(Source.of(path, code if path.endswith("__init__.py") else f'"""Doc."""\n{code}'))


def test_a_module_without_docstring_is_found() -> None:
    (breach,) = breaches_of(Source.of("tests/test_a.py", "x = 1"))
    assert breach.startswith("tests/test_a.py:1: module without a docstring")


def test_no_private_words_are_used() -> None:
    folders = ("model", "recipes", "launch", "ds_configs", "benchmarks", "tests", "docs")
    paths = [
        path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.is_file() and "__pycache__" not in path.parts
    ]
    paths += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "pyproject.toml", "Makefile", ".ci/run")]
    found = [one for path in paths for one in private_words(path.relative_to(ROOT).as_posix(), path.read_text(errors="replace"))]
    assert not found, "\n" + "\n".join(found)


def test_private_words_are_found_in_names_sentences_and_messages() -> None:
    text = "def _hear(self): ...\nclass LastWords: ...\n# Whoever calls.\nprint('it told nobody')\nfile.tell()\nmeeting_seconds = 3\n"
    found = [breach.split("'")[1] for breach in private_words("recipes/a.py", text)]
    assert found == ["hear", "Last Words", "Whoever", "told", "nobody", "meeting"]
    assert list(private_words("tests/house.py", text)) == list(private_words("docs/masks.png", text)) == []


def test_a_public_class_name_stands_once() -> None:
    assert not repeated_classes(SOURCES)
    twice = [Source.of(path, "class Report:\n    pass\nclass _Part:\n    pass") for path in ("model/a.py", "recipes/b.py", "tests/c.py")]
    assert repeated_classes(twice) == ["class Report is in model/a.py, recipes/b.py"]


CONTRACTS = {
    "upwards": ("recipes/data/breach.py", "def f():\n    from recipes.train import loop", "data is not allowed to import recipes.train"),
    "siblings": ("recipes/watch/breach.py", "import recipes.ledger.launches", "recipes.watch is not allowed to import recipes.ledger"),
    "model": ("model/breach.py", "import recipes.errors", "model is not allowed to import recipes"),
    "circle": ("recipes/data/packing.py", "import recipes.data.text", "No circles between folders or files BROKEN"),
    "a folder outside of the layers": ("recipes/breach.py", "", "breach"),
}


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_import_contracts_see_a_breach(name: str, tmp_path: Path) -> None:
    """Contracts of import-linter, which `make lint` holds the repository to; here each is broken on a copy."""
    path, code, message = CONTRACTS[name]
    for folder in ("model", "recipes"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("samples", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / path).open("a") as file:
        file.write(f"\n{code}\n")
    linter = Path(sys.executable).with_name("lint-imports")
    done = run_command([linter, "--no-cache", "--no-logo"], tmp_path, 60, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and message in done.stdout, done.stdout


def test_every_module_has_its_test_file() -> None:
    missing = missing_tests([source.path for source in SOURCES])
    assert not missing, f"{len(missing)} test files are missing:\n" + "\n".join(missing)


def test_a_missing_test_file_is_found() -> None:
    paths = ["model/__init__.py", "model/loss.py", "model/frontends/text.py", "tests/model/test_loss.py", "launch/plan.py"]
    assert missing_tests(paths) == ["tests/model/frontends/test_text.py"]


def test_the_checks_see_the_repository() -> None:
    """No rule holds because a folder was not found."""
    seen = {source.path for source in SOURCES}
    assert {"model/config.py", "recipes/config.py", "recipes/text.py", "tests/house.py", "tests/test_house.py"} <= seen


def test_every_package_is_installed_and_no_other() -> None:
    """An explicit list in pyproject.toml forgets new packages silently."""
    packages = {source.path.removesuffix("/__init__.py").replace("/", ".") for source in SOURCES if source.path.endswith("__init__.py")}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(listed) == packages
    folders = {str(Path(source.path).parent) for source in SOURCES if source.fits("model/*.py", "recipes/*.py")}
    assert folders == {name.replace(".", "/") for name in packages}, "a folder of modules without __init__.py"


def test_every_library_that_is_imported_is_a_dependency_with_a_tested_version() -> None:
    """A library that only comes along with another one may leave with its next release."""
    named = {"PIL": "pillow", "megatron": "megatron-core"}
    files = [source for source in SOURCES if source.fits("model/*", "recipes/*", "launch/*")]
    tops = {name.partition(".")[0] for source in files for _, name in imports(source)} - {"model", "recipes"}
    used = {named.get(name, name) for name in tops if name not in sys.stdlib_module_names}
    assert used - {"pyarrow"} == dependencies() - {"datasets"}, "datasets, which brings pyarrow, is imported by a function of ours"
    tested = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert used <= tested


def dependencies() -> set[str]:
    """The libraries of every extra but `test` count too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "test" for line in lines]
    return {re.split(r"[<>=]", line)[0] for line in [*project["dependencies"], *extras]}


def test_plans_and_recipes_import_no_torch(tmp_path: Path) -> None:
    files = [source.path.removesuffix(".py") for source in SOURCES if source.fits(*TORCH_FREE)]
    modules = [file.replace("/", ".").removesuffix(".__init__") for file in files]
    assert imported_heavily(modules, tmp_path) == "set()"
    assert imported_heavily(["numpy", "torch"], tmp_path) == "{'torch'}", "the check itself"


def imported_heavily(modules: list[str], cwd: Path) -> str:
    program = f"import sys, {', '.join(modules)}; print({HEAVY} & set(sys.modules))"
    done = run_command([sys.executable, "-c", program], cwd, 60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_installed_packages_are_this_checkout(tmp_path: Path) -> None:
    """A foreign `recipes` in site-packages (torchtune's) would win over an editable install."""
    program = "import model, recipes; print(model.__file__, recipes.__file__, sep='\\n')"
    done = run_command([sys.executable, "-c", program], tmp_path, 60, env={"PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    assert [Path(line).parent.parent.resolve() for line in done.stdout.split()] == [ROOT.resolve()] * 2


def test_no_launch_script_hides_a_library() -> None:
    """`python launch/x.py` puts launch/ first on the path, so launch/datasets.py would be imported as datasets."""
    elsewhere = [entry for entry in sys.path if entry and Path(entry).resolve() != ROOT.resolve()]
    names = [Path(source.path).stem for source in SOURCES if source.fits("launch/*.py")]
    assert [name for name in names if hides_a_library(name, elsewhere)] == []
    assert hides_a_library("datasets", elsewhere) and hides_a_library("logging", elsewhere), "the check itself"


def test_no_command_accepts_abbreviated_flags() -> None:
    """An abbreviation would change its meaning with the next flag, and a mistyped flag would get no suggestion."""
    sources = [source for source in SOURCES if source.fits("recipes/*", "launch/*") and source.path.endswith(".py")]
    calls = [(source.path, ast.unparse(node)) for source in sources for node in ast.walk(source.tree) if isinstance(node, ast.Call)]
    parsers = [(path, call) for path, call in calls if call.partition("(")[0].endswith((".ArgumentParser", ".add_parser"))]
    assert len(parsers) > 8 and [(path, call) for path, call in parsers if "allow_abbrev=False" not in call] == []


def hides_a_library(name: str, path: list[str]) -> bool:
    return name in sys.stdlib_module_names or importlib.machinery.PathFinder.find_spec(name, path) is not None
