"""The short checks of a device, as part of a node's report."""

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.cluster.preflight import device_checks
from recipes.cluster.preflight.device_checks import run

ROW = {"what": "student, S 192", "status": "fail", "seen": "not finite: input", "numbers": {}}
CHECKS = [
    {"name": "attention", "rows": [ROW | {"status": "ok"}, ROW, ROW | {"what": "student, S 320"}]},
    {"name": "shards", "rows": [ROW | {"status": "cannot run here"}]},
]


def stand_in(folder: Path, code: int, summary: str, words: str, checks: list[dict[str, Any]] | None) -> Path:
    """Write a script that replaces the checks."""
    script = folder / "script.py"
    lines = ["import pathlib, sys", "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])"]
    if checks is not None:
        lines.append(f"(out / 'check.json').write_text({json.dumps({'summary': summary, 'checks': checks})!r})")
    lines += [f"print({words!r} + ' ' + ' '.join(sys.argv[1:-1]), file=sys.stderr)", f"sys.exit({code})"]
    script.write_text("\n".join(lines))
    return script


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(device_checks.tempfile, "tempdir", str(folder))
    return folder


def test_the_first_failure_of_each_check_is_reported_with_its_table_which_is_kept(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_checks, "SCRIPT", stand_in(tmp_path, 1, "1 rows ok, 2 failed", "", CHECKS))
    found = run(False)
    (folder,) = temporary.iterdir()
    assert found == {
        "summary": "1 rows ok, 2 failed",
        "failures": {"check attention": f"student, S 192: not finite: input ({folder}/check.md)"},
    }


def test_without_a_failure_no_file_is_kept(temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_checks, "SCRIPT", stand_in(tmp_path, 0, "1 rows ok", "", CHECKS[1:]))
    assert run(False) == {"summary": "1 rows ok", "failures": {}} and not list(temporary.iterdir())


@pytest.mark.parametrize(("has_device", "device"), [(True, "cuda"), (False, "cpu")])
def test_checks_that_cannot_run_report_the_reason(
    has_device: bool, device: str, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_checks, "SCRIPT", stand_in(tmp_path, 2, "", "error: no GPU here", None))
    failures = {"device checks": f"no GPU here --short --device {device} --out"}
    assert run(has_device) == {"summary": "", "failures": failures} and not list(temporary.iterdir())


def test_an_exit_code_without_a_failed_row_is_a_failure(temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for checks in (CHECKS[1:], None):
        monkeypatch.setattr(device_checks, "SCRIPT", stand_in(tmp_path, 1, "1 rows ok", "KeyError: 'x'", checks))
        assert run(False)["failures"] == {"device checks": "KeyError: 'x' --short --device cpu --out"}
    assert not list(temporary.iterdir())


def test_checks_that_hang_are_killed_and_their_folder_is_named(temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(device_checks, "SCRIPT", script)
    monkeypatch.setattr(device_checks, "SECONDS", 0.5)
    found = run(False)
    (folder,) = temporary.iterdir()
    assert found == {"summary": "", "failures": {"device checks": f"not done within 0.5 s; see {folder}"}}
