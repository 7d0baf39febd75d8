"""The short checks of a device as facts of a node."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recipes.cluster.preflight import device_checks
from recipes.cluster.preflight.device_checks import failures

ROW = {"what": "student, S 192", "status": "fail", "seen": "not finite: input", "numbers": {}}
CHECKS = [
    {"name": "attention", "rows": [ROW | {"status": "ok"}, ROW, ROW | {"what": "student, S 320"}]},
    {"name": "shards", "rows": [ROW | {"status": "cannot run here"}]},
]


def stand_in(folder: Path, code: int, words: str, checks: list[dict[str, Any]] | None) -> Path:
    """A script in place of the check."""
    script = folder / "script.py"
    lines = ["import pathlib, sys", "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])"]
    if checks is not None:
        lines.append(f"(out / 'check.json').write_text({json.dumps({'checks': checks})!r})")
    lines += [f"print({words!r} + ' ' + ' '.join(sys.argv[1:-1]), file=sys.stderr)", f"sys.exit({code})"]
    script.write_text("\n".join(lines))
    return script


def test_the_first_failure_of_each_check_is_a_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_checks, "SCRIPT", stand_in(tmp_path, 1, "", CHECKS))
    assert failures(False) == {"check attention": "student, S 192: not finite: input"}
    monkeypatch.setattr(device_checks, "SCRIPT", stand_in(tmp_path, 0, "", CHECKS[1:]))
    assert failures(False) == {}


@pytest.mark.parametrize(("has_device", "device"), [(True, "cuda"), (False, "cpu")])
def test_what_cannot_run_says_why(has_device: bool, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_checks, "SCRIPT", stand_in(tmp_path, 2, "error: no GPU here", None))
    with pytest.raises(RuntimeError, match=f"^error: no GPU here --short --device {device} --out$"):
        failures(has_device)


def test_one_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(device_checks, "SCRIPT", script)
    monkeypatch.setattr(device_checks, "SECONDS", 0.5)
    with pytest.raises(RuntimeError, match=r"script\.py was not done within 0\.5 s"):
        failures(False)


def test_the_real_one_has_these_words(tmp_path: Path) -> None:
    words = [sys.executable, str(device_checks.SCRIPT), "--short", "--device", "cpu", "--only", "images", "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stdout.startswith("0 ok, 0 failed, 0 cannot run here"), done.stderr
