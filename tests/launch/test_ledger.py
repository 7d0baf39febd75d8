"""launch/ledger.py as a command: help, the ledger of a finished run, bad input."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.distributed import run_command
from tests.launching import ROOT, contents, launch, refused

LEDGER = ROOT / "launch" / "ledger.py"
BAD: dict[str, tuple[list[str], str]] = {
    "no run": (["nowhere"], r"nowhere: no such folder; name a run dir"),
    "another folder": (["."], r"no events\.jsonl in it, so no launch has begun there"),
    "damaged": (["damaged"], r"damaged/events\.jsonl: line 1 is damaged"),
    "failures": (["run", "--mtbf-hours", "0"], r"--mtbf-hours 0: must be a number of hours above 0"),
}


@pytest.fixture
def folder(tiny_run: Path, tmp_path: Path) -> Path:
    """A working directory with a finished run and one whose first event is damaged."""
    for name in ("run", "damaged"):
        shutil.copytree(tiny_run, tmp_path / name)
    events = tmp_path / "damaged" / "events.jsonl"
    events.write_text("%" + events.read_text())
    return tmp_path


def test_help_has_an_example_and_is_torch_free(tmp_path: Path) -> None:
    program = f"import runpy, sys; sys.argv[1:] = ['--help']\ntry: runpy.run_path({str(LEDGER)!r}, run_name='__main__')\n"
    program += "finally: print({'torch', 'deepspeed', 'megatron', 'numpy'} & set(sys.modules), file=sys.stderr)"
    done = run_command([sys.executable, "-c", program], tmp_path, 30)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert "python launch/ledger.py runs/text_base --mtbf-hours 24" in done.stdout


def test_the_time_of_a_finished_run_is_divided_and_no_file_is_changed(folder: Path) -> None:
    before = contents(folder)
    done = launch(LEDGER, ["run", "--mtbf-hours", "2"], folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run: step 2, 1 launches, wall time ")
    assert "\nlaunch 1: 1 ranks (tensor-parallel 1), from step 0, " in done.stdout and ", done\nsaves: 1 complete, 0 failed;" in done.stdout
    assert "a failure comes every 2 h: --set run.save_steps=" in done.stdout
    assert contents(folder) == before


def test_the_parts_of_a_real_run_sum_to_its_wall_time_and_contain_its_updates(folder: Path) -> None:
    ledger = json.loads(launch(LEDGER, ["run", "--json"], folder).stdout)
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    start, *_, stop = [json.loads(line) for line in (folder / "run" / "events.jsonl").read_text().splitlines()]
    seconds = {name: part["seconds"] for name, part in ledger["parts"].items()}
    assert sum(seconds.values()) == pytest.approx(ledger["wall_seconds"])
    assert ledger["wall_seconds"] == pytest.approx(stop["time"] - start["time"] + start["setup_seconds"])
    assert seconds["training"] + seconds["data_wait"] == pytest.approx(sum(row["step_seconds"] for row in rows))
    assert (seconds["skipped"], seconds["lost"], seconds["down"], ledger["contradiction_seconds"]) == (0, 0, 0, 0)
    assert seconds["other"] >= 0 and ledger["advice"]["save_steps"] >= 1


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, folder: Path) -> None:
    args, complaint = BAD[case]
    refused(launch(LEDGER, args, folder), complaint)
