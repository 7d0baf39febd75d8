"""wandb neither stops nor delays a run, reachable or not. One run dir is one wandb run. Variables of the environment take precedence."""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from recipes.train.mirror import ID_FILE, open_mirror
from tests.distributed import run_command
from tests.launching import ROOT

CONFIG = {"recipe": {"optim": {"weight_decay": 0.0125}}, "deepspeed": {"zero_optimization": {"stage": 3}}}


class WandbStandIn(ModuleType):
    """Stands for the wandb library and records the options of init and the logged rows. Tests below use the real library."""

    Error = RuntimeError

    def __init__(self) -> None:
        super().__init__("wandb")
        self.init_options: dict[str, Any] = {}
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.finished = False

    def Settings(self, **options: Any) -> dict[str, Any]:  # noqa: N802 - the library's name
        return options

    def init(self, **options: Any) -> "WandbStandIn":
        self.init_options = options
        return self

    def log(self, row: dict[str, Any], step: int) -> None:
        self.rows.append((step, row))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove WANDB_ variables of the environment during a test. Changes by the test are undone."""
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")})


def launched_with(run_dir: Path, monkeypatch: pytest.MonkeyPatch, *steps: int, mode: str = "offline") -> WandbStandIn:
    """Return the stand-in after a whole launch that logged `steps`."""
    wandb = WandbStandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run_dir.mkdir(exist_ok=True)
    mirror = open_mirror(mode, run_dir, CONFIG)
    if mirror:
        for step in steps:
            mirror.log({"step": step, "loss": 0.5, "probe": None})
        mirror.finish()
    return wandb


def test_wandb_gets_each_row_under_its_step_the_mode_that_was_asked_for_and_the_hyperparameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = launched_with(tmp_path / "run", monkeypatch, 4, 8)
    assert wandb.rows == [(4, {"step": 4, "loss": 0.5}), (8, {"step": 8, "loss": 0.5})], "values that are None are left out"
    asked = {"project": "data2vec", "name": "run", "group": "run", "dir": str(tmp_path / "run"), "mode": "offline", "config": CONFIG}
    assert {name: wandb.init_options[name] for name in asked} == asked and wandb.finished


def test_a_run_dir_is_one_wandb_run_and_a_copy_of_it_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = (launched_with(tmp_path / "run", monkeypatch).init_options for _ in range(2))
    assert again["id"] == first["id"] and again["resume"] == "allow" and again["allow_val_change"], "changed settings are accepted ones"
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    copy = launched_with(tmp_path / "copy", monkeypatch).init_options
    (tmp_path / "run").rename(tmp_path / "moved")
    assert launched_with(tmp_path / "moved", monkeypatch).init_options["id"] == first["id"] != copy["id"]
    assert launched_with(tmp_path / "copy", monkeypatch).init_options["id"] == copy["id"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"id": "x", "folder": 7}'])
def test_a_damaged_id_is_a_new_one(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ID_FILE).write_text(content)
    own = launched_with(tmp_path, monkeypatch).init_options["id"]
    assert own != "x" and json.loads((tmp_path / ID_FILE).read_text())["id"] == own


def test_what_the_environment_says_counts_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is passed to wandb.init hides the variable, so nothing is."""
    names = {"PROJECT": "project", "NAME": "name", "RUN_GROUP": "group", "DIR": "dir", "MODE": "mode", "RESUME": "resume"}
    os.environ.update({f"WANDB_{name}": "mine" for name in names} | {"WANDB_RUN_ID": "my_id"})
    options = launched_with(tmp_path, monkeypatch).init_options
    assert not set(names.values()) & options.keys() and options["id"] == "my_id"
    os.environ.update({name: "" for name in list(os.environ) if name.startswith("WANDB_")})
    options = launched_with(tmp_path, monkeypatch).init_options
    assert set(names.values()) <= options.keys() and options["id"] == "my_id", "an empty variable counts as unset; the id stays"


def test_a_mode_that_is_off_or_disabled_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched_with(tmp_path, monkeypatch, mode="off").init_options == {}
    os.environ["WANDB_MODE"] = "disabled"
    assert launched_with(tmp_path, monkeypatch, mode="online").init_options == {}
    assert not list(tmp_path.iterdir())


PROGRAM = """
import sys, time
from pathlib import Path
from recipes.cluster.environment import quiet_libraries
from recipes.train import mirror

if __name__ == "__main__":
    quiet_libraries()
    mirror.PATIENCE_SECONDS = float(sys.argv[3])
    config = {"optim": {"weight_decay": 0.0125}}
    writer = mirror.open_mirror(sys.argv[1], Path(sys.argv[2]), config)
    start = time.perf_counter()
    for step in (1, 2):
        writer.log({"step": step, "loss": 1.0, "target_std": 0.9, "world_size": 1, "probe": None})
    print(f"wrote in {time.perf_counter() - start}")
    writer.finish()
    print(f"closed in {time.perf_counter() - start}")
"""


def mirrored(mode: str, run_dir: Path, patience_seconds: float = 60.0, **env: str) -> tuple[float, float, str]:
    """Return seconds of two writes, seconds until closed, and stderr of a process of its own, since wandb starts another process.

    `patience_seconds`: by default long enough for a wandb that answers, even on a busy machine."""
    run_dir.mkdir()
    program = run_dir.parent / "program.py"
    program.write_text(PROGRAM)
    home = {"HOME": str(run_dir.parent), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_API_KEY": "", "NETRC": "/nowhere"}
    done = run_command([sys.executable, program, mode, run_dir, str(patience_seconds)], run_dir.parent, 120, {**home, **env})
    assert done.returncode == 0, done.stderr
    wrote, closed = (float(line.split()[-1]) for line in done.stdout.splitlines()[-2:])
    assert wrote < 1.0, f"training waited {wrote} s for wandb"
    return wrote, closed, done.stderr


def test_wandb_offline_writes_into_the_run_dir_and_is_silent(tmp_path: Path) -> None:
    _, closed, stderr = mirrored("offline", tmp_path / "run", WANDB_PROJECT="my-project")
    assert stderr == "" and closed < 60
    (record,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    content = record.read_bytes()
    assert all(word in content for word in (b"target_std", b"weight_decay", b"my-project")) and b"data2vec" not in content
    assert record.parent.name.endswith(json.loads((tmp_path / "run" / ID_FILE).read_text())["id"])


def test_an_unreachable_wandb_is_one_line_and_a_bounded_wait(tmp_path: Path) -> None:
    start = time.perf_counter()
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}
    _, closed, stderr = mirrored("online", tmp_path / "run", 1.0, **nowhere)
    assert closed < 6 and time.perf_counter() - start < 60
    assert len(stderr.splitlines()) == 1 and stderr.startswith("wandb: "), stderr


@pytest.mark.parametrize("env", [{}, {"WANDB_MODE": "sometimes"}], ids=["no key", "a mode that is none"])
def test_what_wandb_refuses_is_one_line(env: dict[str, str], tmp_path: Path) -> None:
    _, _, stderr = mirrored("online", tmp_path / "run", **env)
    assert len(stderr.splitlines()) == 1 and stderr.endswith("training goes on, metrics.jsonl has everything\n"), stderr
