"""launch/probe.py as a user runs it: help, a result beside the run, other data, bad input."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.distributed import run_command
from tests.launching import PROBE, launch

BAD: dict[str, tuple[list[str], dict[str, str], str]] = {
    "no run": (["--from", "nowhere"], {}, r"--from nowhere: no such folder; name a run dir"),
    "another folder": (["--from", "."], {}, r"--from \.: neither a run dir nor a checkpoint folder"),
    "task": (["--from", "run", "--task", "taste"], {}, r"--task taste: unknown; there are cloze"),
    "processes": (["--from", "run"], {"WORLD_SIZE": "2"}, r"runs on one process, 2 were started"),
    "data": (["--from", "run", "--data", "nowhere.txt"], {}, r"--data nowhere\.txt: no such file or folder"),
    "checkpoint": (["--from", "unsaved"], {}, r"--from unsaved: the run has no complete checkpoint yet"),
}


@pytest.fixture
def folder(tiny_run: Path, tmp_path: Path) -> Path:
    """A working directory with a finished run and one without a checkpoint."""
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "unsaved").mkdir()
    shutil.copy(tiny_run / "config.json", tmp_path / "unsaved")
    return tmp_path


def test_help_has_an_example_and_is_torch_free(tmp_path: Path) -> None:
    program = f"import runpy, sys; sys.argv[1:] = ['--help']\ntry: runpy.run_path({str(PROBE)!r}, run_name='__main__')\n"
    program += "finally: print({'torch', 'deepspeed', 'megatron', 'numpy'} & set(sys.modules), file=sys.stderr)"
    done = run_command([sys.executable, "-c", program], tmp_path, 30)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert "python launch/probe.py --from runs/text_tiny --task cloze" in done.stdout


def test_a_probe_writes_its_result_beside_the_run_and_repeats_itself(folder: Path) -> None:
    results = []
    for source in ("run", "run/checkpoints/step_00000002"):
        done = launch(PROBE, ["--from", source, "--task", "cloze"], folder)
        assert (done.returncode, done.stderr) == (0, "")
        assert "pre-trained " in done.stdout and "random init " in done.stdout and done.stdout.endswith("written to run/results.json\n")
        results.append(json.loads((folder / "run" / "results.json").read_text()))
    assert results[0] == results[1] and len(results[0]) == 1, "a repeat replaces its own entry"
    assert results[0][0]["task"] == "cloze" and results[0][0]["from"] == "run/checkpoints/step_00000002"


def test_other_data_are_read_with_the_runs_tokenizer(folder: Path, tiny_text: Path) -> None:
    lines = tiny_text.read_text().splitlines()
    (folder / "other.txt").write_text("\n".join(reversed(lines)))
    done = launch(PROBE, ["--from", "run", "--data", "other.txt"], folder)
    assert (done.returncode, done.stderr) == (0, "")
    (prepared,) = (folder / "run" / "probe").glob("other.txt-*")
    assert (prepared / "tokenizer.model").read_bytes() == (folder / "run" / "prepared" / "tokenizer.model").read_bytes()


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, folder: Path) -> None:
    args, env, complaint = BAD[case]
    before = sorted(folder.rglob("*"))
    done = launch(PROBE, args, folder, env=env)
    assert done.returncode == 2 and re.fullmatch(r"error: .*\n", done.stderr), done.stderr
    assert re.search(complaint, done.stderr), done.stderr
    assert sorted(folder.rglob("*")) == before
