"""Cells of the comparison: computed once, kept, continued after a stop, and ended by the first error."""

import json
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from recipes.errors import ConfigError, Stopped
from results.cells import Cell, Cells, Result, in_words


def cell(name: str, calls: list[str], value: float = 0.5) -> Cell:
    """A cell whose computation is noted in `calls`."""

    def compute() -> Result:
        calls.append(name)
        return {"mean": value, "standard_error": 0.01}

    return Cell(name, compute)


def test_a_finished_cell_is_not_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells, calls = Cells(tmp_path, tmp_path, jobs=2), list[str]()
    cells.finish([cell("a", calls), cell("b", calls)])
    cells.finish([cell("a", calls), cell("b", calls), cell("c", calls, 0.25)])
    assert sorted(calls) == ["a", "b", "c"]
    stored = cells.get("c")
    assert stored is not None and (stored["mean"], stored["cell"]) == (0.25, "c") and stored["seconds"] >= 0
    assert "1/1 c: 0.2500 +- 0.0100, 0.0 min" in capsys.readouterr().out and cells.get("d") is None


def test_a_cell_of_other_settings_is_refused(tmp_path: Path) -> None:
    cells, cleaned = Cells(tmp_path, tmp_path, jobs=1), list[str]()
    one = Cell("a", dict, "recipe 1", lambda: cleaned.append("a"))
    cells.finish([one])
    cells.finish([one])
    assert cleaned == ["a", "a"], "a kill between the two may have left something"
    with pytest.raises(
        ConfigError, match=r"a\.json: was computed from other settings or another recipe; remove it and what has its name in"
    ):
        cells.finish([Cell("a", dict, "recipe 2")])


def test_a_damaged_cell_is_named(tmp_path: Path) -> None:
    cells = Cells(tmp_path, tmp_path, jobs=1)
    cells.path("a").parent.mkdir()
    cells.path("a").write_text("{")
    with pytest.raises(ConfigError, match=r"a\.json: cannot be read .*; remove it, and the same command computes it again"):
        cells.get("a")


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "script.py"
    path.write_text(text)
    return path


def test_the_first_error_ends_the_rest_and_names_its_log(tmp_path: Path) -> None:
    cells, calls = Cells(tmp_path / "out", tmp_path, jobs=1), list[str]()
    fails = script(tmp_path, "print('the reason'); raise SystemExit(2)")

    def compute() -> Result:
        cells.run([fails, "--flag"], tmp_path / "a.log")
        return {}

    with pytest.raises(ConfigError, match=r"script\.py --flag ended with 2; .*a\.log has the reason"):
        cells.finish([cell("before", calls), Cell("fails", compute), cell("after", calls)])
    assert calls == ["before"] and cells.get("before") and not cells.get("fails")
    assert "the reason" in (tmp_path / "a.log").read_text()


def test_the_error_of_a_cell_ends_those_beside_it(tmp_path: Path) -> None:
    """The first of the two is stopped, and the error is that of the second."""
    cells = Cells(tmp_path / "out", tmp_path, jobs=2)
    waits, fails = tmp_path / "waits.py", script(tmp_path, "raise SystemExit(3)")
    waits.write_text("import time; time.sleep(60)")
    computed = [Cell(name, partial(run_and_return, cells, path, tmp_path / "log")) for name, path in (("a", waits), ("b", fails))]
    began = time.monotonic()
    with pytest.raises(ConfigError, match="ended with 3"):
        cells.finish(computed)
    assert time.monotonic() - began < 30


def test_a_code_that_is_expected_is_returned(tmp_path: Path) -> None:
    assert Cells(tmp_path, tmp_path, jobs=1).run([script(tmp_path, "raise SystemExit(3)")], tmp_path / "log", codes=(0, 3)) == 3


def test_a_script_runs_with_one_thread(tmp_path: Path) -> None:
    cells = Cells(tmp_path, tmp_path, jobs=1)
    cells.run([script(tmp_path, "import os; print(os.environ['OMP_NUM_THREADS'])")], tmp_path / "log")
    assert (tmp_path / "log").read_text().strip() == "1"


def test_a_stop_lets_the_script_save_and_the_next_command_goes_on(tmp_path: Path) -> None:
    """The script is asked to stop by SIGTERM, writes that down and ends with 75."""
    cells, calls, flag = Cells(tmp_path / "out", tmp_path, jobs=1), list[str](), tmp_path / "flag"
    waits = script(
        tmp_path,
        f"""import signal, sys, time, pathlib
signal.signal(signal.SIGTERM, lambda *args: (pathlib.Path({str(flag)!r}).write_text("saved"), sys.exit(75)))
pathlib.Path({str(flag)!r}).write_text("begun")
time.sleep(60)
""",
    )

    def stop() -> None:
        while not flag.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Stopped, match="what is finished is kept, and the same command goes on"):
        cells.finish([cell("a", calls), Cell("b", partial(run_and_return, cells, waits, tmp_path / "log")), cell("c", calls)])
    thread.join()
    assert flag.read_text() == "saved" and calls == ["a"]
    Cells(tmp_path / "out", tmp_path, jobs=1).finish([cell("a", calls), cell("b", calls), cell("c", calls)])
    assert calls == ["a", "b", "c"]


def run_and_return(cells: Cells, path: Path, log: Path) -> Result:
    cells.run([path], log)
    return {}


def test_results_are_json(tmp_path: Path) -> None:
    cells = Cells(tmp_path, tmp_path, jobs=1)
    cells.finish([cell("a", [])])
    assert json.loads(cells.path("a").read_text())["date"].count("-") == 2
    assert in_words({"seconds": 90}) == "1.5 min"
