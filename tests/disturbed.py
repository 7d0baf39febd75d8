"""A tiny text run that is disturbed, and its required properties: an undisturbed reference run, and comparisons with it. The
disturbances are in tests/faults.py."""

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.checkpoint.layout import candidates, newest, step_of
from recipes.checkpoint.load import CheckpointReader
from recipes.data.prepare import prepare_text
from tests.faults import Fault, Operation, read_operations
from tests.launching import PRETRAIN_TEXT, Ranks, overrides, read_jsonl, start_ranks, tiny_recipe
from tests.made_up import write_book
from tests.recipes.checkpoint.topology import KINDS

LAST, EVERY = 12, 3
NUMBERS: dict[str, object] = {
    **{"run__max_steps": LAST, "run__save_steps": EVERY, "run__eval_steps": 6},
    **{"checkpoint__keep_last": 2, "checkpoint__keep_every_steps": 6},
    **{"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1},
}
KEPT = (6, 9, 12)
"""Steps of the checkpoints that an undisturbed run of NUMBERS keeps."""
TIMED = {"step_seconds", "data_wait_seconds", "tokens_per_second", "peak_memory_bytes"}
Hooks = Mapping[int, Callable[[], Any]]
State = dict[str, str]


@dataclass(frozen=True)
class Reference:
    """The result of an undisturbed run of `size` ranks: the state after each step, its logged numbers, its duration, and the file
    operations of each rank in a run of NUMBERS."""

    prepared: Path
    size: int
    states: dict[int, State]
    curve: list[dict[str, Any]]
    seconds: float
    operations: dict[int, list[Operation]]

    def start(self, run_dir: Path, before: Hooks | None = None, **changes: object) -> Ranks:
        """Start the run, or resume it. `changes` of NUMBERS are as in tests.launching.overrides."""
        return start_run(self.prepared, run_dir, self.size, before, **changes)

    def run(self, run_dir: Path, before: Hooks | None = None, **changes: object) -> list[subprocess.CompletedProcess[str]]:
        """Start the run and wait for its end. After a rank is killed, the others have five seconds to end by themselves."""
        return self.start(run_dir, before, **changes).wait(240)

    def check_checkpoints(self, run_dir: Path) -> None:
        """Assert that every visible checkpoint is complete and has exactly the undisturbed run's state at its step, and that, if there
        is any, one is found to resume from."""
        found = sorted((run_dir / "checkpoints").glob("step_*"))
        for folder in found:
            assert state_of(folder) == self.states[step_of(folder)], f"{folder.name} is not the undisturbed run's"
        assert bool(candidates(run_dir)) == bool(found) and (newest(run_dir) is not None) == bool(found), found

    def check_same(self, run_dir: Path) -> None:
        """Assert that the run has ended with the undisturbed run's last state and curve. It may have kept other checkpoints."""
        self.check_checkpoints(run_dir)
        assert (run_dir / "checkpoints" / "latest").read_text() == f"step_{LAST:08d}\n"
        ours = curve_of(run_dir)
        assert [row["step"] for row in ours] == [row["step"] for row in self.curve], [row["step"] for row in ours]
        differing = [f"step {a['step']}: {a} != {b}" for a, b in zip(ours, self.curve, strict=True) if a != b]
        assert not differing, differing[0]

    def check_end(self, run_dir: Path, kept: Sequence[int] = KEPT) -> None:
        """Assert check_same, and that checkpoints/ has only those of the steps `kept`."""
        self.check_same(run_dir)
        names = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
        assert names == ["latest", *(f"step_{step:08d}" for step in kept)], names


def start_run(prepared: Path, run_dir: Path, size: int, before: Hooks | None = None, **changes: object) -> Ranks:
    """Start a run of NUMBERS with `changes`."""
    return start_ranks(PRETRAIN_TEXT, arguments(prepared, run_dir, **changes), run_dir.parent, size, before=before)


def arguments(prepared: Path, run_dir: Path, **changes: object) -> list[object]:
    """Return the command's flags."""
    return ["--data", prepared, "--run-dir", run_dir, *overrides(**{**NUMBERS, **changes})]


def prepare(folder: Path) -> Path:
    """Prepare a made-up book for the tiny settings and return the folder."""
    recipe = tiny_recipe(data__path=write_book(folder / "book.txt"))
    return prepare_text(recipe.data, recipe.frontend, folder / "prepared", num_processes=1)


def make_reference(prepared: Path, folder: Path, size: int) -> Reference:
    """Make two undisturbed runs: one keeps a checkpoint of every step, one is logged and timed. They must agree."""
    every, watched = folder / "every", folder / "watched"
    finished(start_run(prepared, every, size, run__save_steps=1, checkpoint__keep_last=LAST).wait(240))
    logs = {rank: folder / f"operations_{rank}.jsonl" for rank in range(size)}
    begin = time.monotonic()
    finished(start_run(prepared, watched, size, {rank: Fault(log=log) for rank, log in logs.items()}).wait(240))
    seconds = time.monotonic() - begin
    states = {step_of(path): state_of(path) for path in candidates(every)}
    assert len(states) == LAST, sorted(states)
    operations = {rank: read_operations(log) for rank, log in logs.items()}
    reference = Reference(prepared, size, states, curve_of(every), seconds, operations)
    reference.check_end(watched)
    return reference


def finished(done: list[subprocess.CompletedProcess[str]]) -> None:
    """Assert that every rank has ended with exit code 0 and nothing on stderr."""
    ends = [(one.returncode, one.stderr) for one in done]
    assert ends == [(0, "")] * len(done), "\n".join(f"{code}: {stderr}" for code, stderr in ends)


def state_of(folder: Path) -> State:
    """Return counters and the hash of every whole tensor of a checkpoint, which is verified while it is read."""
    reader = CheckpointReader(folder)
    state = {"counters": json.dumps(vars(reader.counters))}
    for kind in KINDS:
        for name in reader.names(kind):
            state[f"{kind}/{name}"] = hashlib.sha256(reader.whole(kind, name).numpy().tobytes()).hexdigest()
    return state


def curve_of(run_dir: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl without the fields that depend on time."""
    return [{key: value for key, value in row.items() if key not in TIMED} for row in read_jsonl(run_dir / "metrics.jsonl")]


def events_of(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """Return the events of one kind so far."""
    path = run_dir / "events.jsonl"
    return [event for event in read_jsonl(path) if event["event"] == kind] if path.exists() else []


def conclude(result: dict[str, Any], begin: float, out: Path | None) -> int:
    """Print a soak test's result with machine, date and duration, and write it to `out`. Returns the exit code: 1 if there are
    failures."""
    facts = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "date": time.strftime("%Y-%m-%d")}
    text = json.dumps({**result, **facts, "seconds": round(time.monotonic() - begin, 1)}, indent=1)
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
    return int(bool(result["failures"]))
