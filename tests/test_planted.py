"""Planted faults: the lists fit the code, generated ones are what they say, and a toy project's faults are noticed or survive."""

import json
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from tests.planted import WiringFaults, listed, mutants, planted_in
from tests.soak import plant
from tests.soak.warm import WarmPytest

ROOT = Path(__file__).parent.parent
MODULE = """import os


def scale(number, factor=2, *, offset=0):
    if number > 10:
        os.sync()
    return number * factor + offset


def save(path, number):
    path.write_text(str(scale(number, 3, offset=1)))
    os.sync()
    path.chmod(0o600)
"""
LIST = """
[[a]]
fault = "the factor is another"
old = "number, factor=2"
new = "number, factor=4"

[[a]]
fault = "the wrong factor is handed on"
old = "scale(number, 3"
new = "scale(number, 5"

[[a]]
fault = "nothing is written"
old = "path.write_text(str(scale(number, 3, offset=1)))"
new = "scale(number, 3, offset=1)"

[[a]]
fault = "large numbers are not synced"
old = "        os.sync()\\n    return"
new = "        pass\\n    return"
harmless = "the disk is not read"
"""
MIRROR = "from model.a import scale\n\n\ndef test_scale():\n    assert scale(1) == 2\n"
NEIGHBOUR = """import model.a


def test_save(tmp_path):
    model.a.save(tmp_path / "x", 1)
    assert (tmp_path / "x").exists()
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A project with one module, one list of faults and two tests, in git."""
    files = {"model/__init__.py": "", "model/a.py": MODULE, "tests/model/planted.toml": LIST, "tests/model/test_a.py": MIRROR}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def test_every_listed_fault_fits_the_code() -> None:
    """Where this fails, code has changed that a fault stands in: change the fault along, or take another that says the same."""
    faults = listed(ROOT)
    assert [text for text, count in Counter((fault.path, fault.text) for fault in faults).items() if count > 1] == []
    assert [text for text, count in Counter((fault.path, fault.fault) for fault in faults).items() if count > 1] == []
    packages = Counter(fault.path.split("/")[1] for fault in faults if not fault.harmless)
    assert packages["train"] >= 60 and packages["checkpoint"] >= 40 and packages.total() >= 200, packages


def test_a_fault_is_the_file_with_its_change(toy: Path) -> None:
    first, *_, last = listed(toy)
    assert (first.path, first.fault, first.harmless) == ("model/a.py", "the factor is another", "")
    assert first.text == MODULE.replace("factor=2", "factor=4")
    assert last.harmless == "the disk is not read"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("number", "x", "`old` is 5 times in model/a.py"),
        ("nowhere", "x", "`old` is 0 times in model/a.py"),
        ("def save(path", "def save((path", "is no Python"),
        ("def save", "def save", "`new` is `old`"),
    ],
)
def test_an_entry_that_does_not_fit_is_named(old: str, new: str, said: str, toy: Path) -> None:
    (toy / "tests/model/planted.toml").write_text(f'[[a]]\nfault = "f"\nold = "{old}"\nnew = "{new}"\n')
    with pytest.raises(ValueError, match=rf"tests/model/planted\.toml, a\.py: f: .*{said}"):
        listed(toy)


@pytest.mark.parametrize(("module", "key"), [("b", "new"), ("a", "novel")])
def test_an_entry_of_no_module_or_with_another_key_is_named(module: str, key: str, toy: Path) -> None:
    path = toy / "tests/model/planted.toml"
    path.write_text(f'[[{module}]]\nfault = "f"\nold = "factor"\n{key} = "x"\n')
    with pytest.raises(ValueError, match="there is no model/b.py" if module == "b" else "has the keys fault, old, novel"):
        planted_in(toy, path)


def test_wiring_faults_leave_out_optional_arguments_and_calls_and_swap_calls(toy: Path) -> None:
    faults = {fault.fault.partition(": ")[2]: fault.text for fault in WiringFaults(toy, ["model/a.py"]).of("model/a.py")}
    assert faults["scale() without factor"] == MODULE.replace("(number, 3, offset=1)", "(number, offset=1)")
    assert faults["scale() without offset"] == MODULE.replace("(number, 3, offset=1)", "(number, 3)")
    assert faults["without path.chmod(384)"] == MODULE.replace("path.chmod(0o600)", "pass")
    swapped = MODULE.replace("    os.sync()\n    path.chmod(0o600)\n", "    path.chmod(0o600)\n    os.sync()\n")
    assert faults["os.sync() after path.chmod(384)"] == swapped
    assert len(faults) == 7, "and each call left out, and the first two swapped"


def test_mutants_are_cosmic_rays(toy: Path) -> None:
    found = {mutant.fault: mutant.text for mutant in mutants(toy, "model/a.py")}
    assert any("factor - offset" in text for text in found.values()) and any("number < 10" in text for text in found.values())
    assert all(text != MODULE and name.startswith("line ") for name, text in found.items())


def run_plant(toy: Path, monkeypatch: pytest.MonkeyPatch, *args: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code, and fault -> (stage, test) of the command, which imports no libraries for a project that uses none."""
    monkeypatch.setattr(plant, "ROOT", toy)
    monkeypatch.setattr(plant, "WarmPytest", partial(WarmPytest, libraries=()))
    monkeypatch.setattr("sys.argv", ["plant", *args, "--out", str(toy / "out.json")])
    code = plant.main()
    found = json.loads((toy / "out.json").read_text())["faults"]
    return code, {fault["fault"]: (fault["stage"], fault["test"]) for fault in found}


def test_each_fault_is_noticed_by_its_modules_test_or_its_folders_or_survives(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "tests/model/test_other.py").write_text(NEIGHBOUR)
    code, found = run_plant(toy, monkeypatch, "--match", " is ")
    assert code == 1
    assert found["the factor is another"] == ("module", "tests/model/test_a.py::test_scale")
    assert found["nothing is written"] == ("module", "tests/model/test_other.py::test_save")
    assert found["the wrong factor is handed on"][1] == "", "no test sees it"
    assert (toy / "model/a.py").read_text() == MODULE, "the checkout itself is never touched"


def test_a_test_that_also_fails_without_the_fault_has_noticed_nothing(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "tests/model/test_a.py").write_text("def test_always():\n    assert False\n")
    code, found = run_plant(toy, monkeypatch, "--match", "nothing is written")
    assert (code, found) == (1, {"nothing is written": ("module", "")})


def test_nothing_to_plant_and_a_wrong_entry_are_the_users_mistake(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(plant, "ROOT", toy)
    monkeypatch.setattr("sys.argv", ["plant", "model/b.py"])
    assert plant.main() == 2
    assert capsys.readouterr().err.startswith("error: no such fault; paths are files and folders of model/")
    (toy / "tests/model/planted.toml").write_text('[[a]]\nfault = "f"\nold = "nowhere"\nnew = "x"\n')
    monkeypatch.setattr("sys.argv", ["plant"])
    assert plant.main() == 2
    assert capsys.readouterr().err.startswith("error: tests/model/planted.toml, a.py: f: `old` is 0 times")


def test_a_run_that_takes_too_long_says_nothing_about_the_fault(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "tests/model/test_a.py").write_text("import time\n\n\ndef test_slow():\n    time.sleep(30)\n")
    monkeypatch.setattr(plant, "STAGE_SECONDS", 1)
    code, found = run_plant(toy, monkeypatch, "--match", "nothing is written")
    assert (code, found) == (1, {"nothing is written": ("module", "")})
    assert json.loads((toy / "out.json").read_text())["undecided"] == 1
