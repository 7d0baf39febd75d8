"""Commands that only plan, inspect or explain do not import torch: every --help, every dry run, the ledger, inspection of a checkpoint."""

import re
import sys
from pathlib import Path

import pytest

from tests.distributed import run_command
from tests.launching import ROOT, overrides

SCRIPTS = sorted((ROOT / "launch").glob("*.py"))
OLD_RUNS = ROOT / "tests" / "old_runs"
PROGRAM = """
import atexit, runpy, sys
atexit.register(lambda: print("heavy:", *sorted({"torch", "deepspeed", "megatron"} & set(sys.modules)), file=sys.stderr))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def heavy_imports(cwd: Path, script: str, *args: object) -> str:
    """Run a command and return the large libraries that it has imported."""
    command = [sys.executable, "-c", PROGRAM, str(ROOT / "launch" / script), *map(str, args)]
    done = run_command(command, cwd, 60, env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    return re.findall(r"^heavy:(.*)$", done.stderr, re.M)[-1].strip()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_imports_no_torch(script: Path, tmp_path: Path) -> None:
    assert heavy_imports(tmp_path, script.name, "--help") == ""


@pytest.mark.parametrize("command", ["inspect", "consolidate", "export", "import"])
def test_help_of_a_sub_command_imports_no_torch(command: str, tmp_path: Path) -> None:
    assert heavy_imports(tmp_path, "convert.py", command, "--help") == ""


def test_the_ledger_and_an_inspection_import_no_torch(tmp_path: Path) -> None:
    assert heavy_imports(tmp_path, "ledger.py", OLD_RUNS / "text" / "run") == ""
    assert heavy_imports(tmp_path, "convert.py", "inspect", OLD_RUNS / "speech" / "run", "--parameters") == ""


def test_a_dry_run_imports_no_torch(modality: str, tmp_path: Path) -> None:
    script = f"pretrain_{modality}.py"
    assert heavy_imports(tmp_path, script, "--dry-run") == "", "on the shipped sample"
    assert heavy_imports(tmp_path, script, "--dry-run", "--data", OLD_RUNS / modality / "data", *overrides(modality)) == ""


def test_a_dry_run_on_prepared_data_imports_no_torch(modality: str, tiny_data: Path, tmp_path: Path) -> None:
    prepared = tmp_path / "prepared"
    flags = overrides(modality)
    command = [sys.executable, ROOT / "launch" / "prepare.py", modality, "--data", tiny_data, "--out", prepared, *flags]
    done = run_command(command, tmp_path, 60)
    assert done.returncode == 0, done.stderr
    assert heavy_imports(tmp_path, f"pretrain_{modality}.py", "--dry-run", "--data", prepared, *flags) == ""


def test_the_check_itself_finds_torch(tmp_path: Path) -> None:
    assert "torch" in heavy_imports(tmp_path, "convert.py", "inspect", OLD_RUNS / "text" / "run", "--verify")
