"""A missing library is one line for the user, for each kind of data that needs it."""

import re
import subprocess
import sys
from pathlib import Path

from recipes.data.libraries import NEEDED_FOR, required

ROOT = Path(__file__).resolve().parents[3]


def test_no_other_module_imports_them() -> None:
    pattern = re.compile(rf"^\s*(import|from) ({'|'.join({name.partition('.')[0] for name in NEEDED_FOR})})\b", re.MULTILINE)
    assert [path.name for path in (ROOT / "recipes").rglob("*.py") if pattern.search(path.read_text())] == []


def test_an_installed_library_is_returned() -> None:
    assert required("pyarrow").__name__ == "pyarrow"


WITHOUT_PANDAS = """
import sys
sys.modules["pandas"] = None
from recipes.data_config import TextDataConfig
from recipes.data.source import open_source
from recipes.errors import ConfigError
print(list(open_source(TextDataConfig(path=f"{sys.argv[1]}/a.csv")).paragraphs()))
try:
    open_source(TextDataConfig(path=sys.argv[1]))
except ConfigError as error:
    print(error)
"""


def test_a_missing_dependency_is_named_and_text_is_read_without_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\none\n")
    (tmp_path / "state.json").write_text("{}")  # a saved data set
    done = subprocess.run([sys.executable, "-c", WITHOUT_PANDAS, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=60)
    text, complaint = done.stdout.splitlines()
    assert text == "[(0, 'one')]"
    assert re.search(r"^datasets, which hub names, .* need, cannot be imported \(.*pandas.*\); install pandas", complaint)
