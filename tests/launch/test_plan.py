"""launch/plan.py as a command: help, a plan, no torch, bad input."""

import json
import sys
from pathlib import Path

from tests.distributed import run_command
from tests.launching import ROOT, contents, launch

PLAN = ROOT / "launch" / "plan.py"


def test_a_plan_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    program = f"import runpy, sys; sys.argv[1:] = ['--recipe', 'text_large']\ntry: runpy.run_path({str(PLAN)!r}, run_name='__main__')\n"
    program += "finally: print({'torch', 'deepspeed', 'megatron', 'numpy'} & set(sys.modules), file=sys.stderr)"
    done = run_command([sys.executable, "-c", program], tmp_path, 30)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    assert done.stdout.startswith("text_large, ")


def test_a_plan_is_printed_and_no_file_is_written(tmp_path: Path) -> None:
    done = launch(PLAN, ["--recipe", "text_large", "--cluster", "nodes=4,gpus=8,device=h100", "--json"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["cluster"] == {"nodes": 4, "gpus": 8, "device": "h100"}
    assert not contents(tmp_path)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    done = launch(PLAN, ["--recipe", "text_large", "--cluster", "gpus=0"], tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: --cluster: gpus is 0") and done.stderr.count("\n") == 1
