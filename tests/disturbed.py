"""Helpers for tests in which a tiny text run is killed or its disk fails: a reference run without any fault, and comparisons with it. The
faults are in tests/faults.py."""

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
    """The result of a run of `size` ranks without any fault: the state after each step, its logged numbers, its duration in seconds, and
    the file operations of each rank."""

    prepared: Path
    size: int
    states: dict[int, State]
    curve: list[dict[str, Any]]
    seconds: float
    operations: dict[int, list[Operation]]

    def start(self, run_dir: Path, before: Hooks | None = None, **changes: object) -> Ranks:
        """Start a run with the settings of the reference run, or resume it. `before`: rank -> function that its process calls first.
        `changes`: settings that differ, as in tests.launching.overrides."""
        return start_run(self.prepared, run_dir, self.size, before, **changes)

    def run(self, run_dir: Path, before: Hooks | None = None, **changes: object) -> list[subprocess.CompletedProcess[str]]:
        """Start a run with the settings of the reference run, and wait for its end. After one rank is killed, the others have five seconds
        to end by themselves. Arguments: see start()."""
        return self.start(run_dir, before, **changes).wait(240)

    def check_checkpoints(self, run_dir: Path) -> None:
        """Assert that every visible checkpoint is complete and has exactly the reference run's state at its step, and that, if there is
        any, one is found to resume from."""
        found = sorted((run_dir / "checkpoints").glob("step_*"))
        for folder in found:
            assert state_of(folder) == self.states[step_of(folder)], f"{folder.name} is not the undisturbed run's"
        assert bool(candidates(run_dir)) == bool(found) and (newest(run_dir) is not None) == bool(found), found

    def check_same(self, run_dir: Path) -> None:
        """Assert that the run has ended with the last state and the loss curve of the reference run. It may have kept other checkpoints."""
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
    """Start a run of `size` ranks with the settings NUMBERS and `changes`. `before`: rank -> function that its process calls first."""
    return start_ranks(PRETRAIN_TEXT, arguments(prepared, run_dir, **changes), run_dir.parent, size, before=before)


def arguments(prepared: Path, run_dir: Path, **changes: object) -> list[object]:
    """Return the flags of the training command for a run with the settings NUMBERS and `changes`."""
    return ["--data", prepared, "--run-dir", run_dir, *overrides(**{**NUMBERS, **changes})]


def prepare(folder: Path) -> Path:
    """Write a made-up book into `folder`, prepare it for the tiny settings, and return the prepared folder."""
    recipe = tiny_recipe(data__path=write_book(folder / "book.txt"))
    return prepare_text(recipe.data, recipe.frontend, folder / "prepared", num_processes=1)


def make_reference(prepared: Path, folder: Path, size: int) -> Reference:
    """Make two runs without any fault, and return the result. One run keeps a checkpoint of every step, the other one is timed and its
    file operations are logged. They must agree."""
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
    """Return the counters of a checkpoint and the hash of each of its whole tensors. The checkpoint is verified while it is read."""
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
    """Return the events of one kind in the run's events.jsonl, in their order; [] if there is no such file."""
    path = run_dir / "events.jsonl"
    return [event for event in read_jsonl(path) if event["event"] == kind] if path.exists() else []


def conclude(result: dict[str, Any], begin: float, out: Path | None) -> int:
    """Print the result of a soak test with machine, date and duration, and write it to `out`, if given. `begin`: start on the clock
    time.monotonic(). Returns the exit code: 1 if there are failures, else 0."""
    facts = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "date": time.strftime("%Y-%m-%d")}
    text = json.dumps({**result, **facts, "seconds": round(time.monotonic() - begin, 1)}, indent=1)
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
    return int(bool(result["failures"]))
