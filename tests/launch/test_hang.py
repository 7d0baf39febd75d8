"""A run that hangs, is killed or ends, and the files of RUN_DIR/watch afterwards: two real ranks of the tiny text run."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from recipes.cluster.slurm import node_name
from recipes.watch.endings import first_failure, read_endings
from tests.launching import PRETRAIN_TEXT, Ranks, launch, overrides, read_jsonl, start_ranks
from tests.processes import processes_of

HANG_SECONDS = 4  # building the engines may take some seconds on a busy machine
FOREVER = 100_000
HERE = node_name()


def args_of(tiny_run: Path, run: Path) -> list[object]:
    """Return the arguments of a run with a hang limit. `tiny_run` has trained before without one, so DeepSpeed need not compile."""
    accepted = {"run__accept_changes": "optim.schedule_steps"}
    settings = overrides(run__max_steps=FOREVER, optim__schedule_steps=FOREVER, run__hang_seconds=HANG_SECONDS, **accepted)
    return ["--data", tiny_run / "prepared", "--run-dir", run, *settings]


@pytest.fixture
def args(tiny_run: Path, tmp_path: Path) -> list[object]:
    """The arguments for the run of one test."""
    return args_of(tiny_run, tmp_path / "run")


def begin(args: list[object], cwd: Path, before: dict[int, Callable[[], object]] | None = None) -> Ranks:
    """Start two ranks, and wait for the first checkpoint."""
    ranks = start_ranks(PRETRAIN_TEXT, [*args, "--set", "run.save_steps=10"], cwd, 2, before=before)
    ranks.running[0].wait_until(lambda: (cwd / "run" / "checkpoints" / "latest").exists())
    return ranks


@dataclass(frozen=True)
class Hang:
    """A run that hung, after its end."""

    args: list[object]
    run: Path
    seconds: float
    """Seconds until no process of the run was left."""
    stderr: list[str]
    """What each rank wrote to stderr."""
    codes: list[int]


@pytest.fixture(scope="module")
def hangs(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Hang]:
    """Two runs that hang at the same time, because most of a hang is waiting. In one rank 0 is stopped: its watcher publishes the
    report, and its process owns events.jsonl. In the other rank 1 gets no data."""
    folders = [tmp_path_factory.mktemp(name) for name in ("stopped", "stuck")]
    commands = [args_of(tiny_run, folder / "run") for folder in folders]
    with ThreadPoolExecutor(2) as waiting:
        ranks = [begin(commands[0], folders[0])]
        os.kill(ranks[0].running[0].process.pid or 0, signal.SIGSTOP)
        ends = [waiting.submit(wait_for_end, ranks[0])]
        ranks.append(begin(commands[1], folders[1], {1: sleep_in_the_data}))
        ends.append(waiting.submit(wait_for_end, ranks[1]))
        seconds = [end.result() for end in ends]
    stderr = [[one.read("stderr") for one in those.running] for those in ranks]
    codes = [[one.returncode for one in those.wait()] for those in ranks]
    found = [Hang(*facts) for facts in zip(commands, [folder / "run" for folder in folders], seconds, stderr, codes, strict=True)]
    return dict(zip(("stopped", "stuck"), found, strict=True))


def wait_for_end(ranks: Ranks) -> float:
    """Wait until neither ranks nor watchers are left, without killing them. Returns the seconds."""
    start, groups = time.monotonic(), [one.process.pid or 0 for one in ranks.running]
    while any(map(processes_of, groups)) and time.monotonic() < start + HANG_SECONDS + 30:
        for one in ranks.running:
            one.process.join(0)
        time.sleep(0.05)
    assert not any(map(processes_of, groups)), [one.read("stderr") for one in ranks.running]
    return time.monotonic() - start


def hang_of(run: Path) -> dict:
    return json.loads((run / "watch" / "hang.json").read_text())


def check_continues(args: list[object], run: Path) -> None:
    """Check that the same command takes the run over, clears the watch folder and continues from the newest checkpoint."""
    step = int((run / "checkpoints" / "latest").read_text().strip().removeprefix("step_"))
    done = launch(PRETRAIN_TEXT, [*args, "--set", f"run.max_steps={step + 2}"], run.parent)
    assert (done.returncode, done.stderr) == (0, "")
    (resume,) = [event for event in read_jsonl(run / "events.jsonl") if event["event"] == "resume"]
    assert resume["step"] == step and resume["lost_steps"] >= 0
    assert [str(one) for one in read_endings(run / "watch")] == [f"rank 0 on {HERE} ended with exit code 0 at step {step + 2}, leave"]


def test_a_stopped_rank_is_the_straggler_with_node_and_stack_and_the_run_ends_within_30_s(hangs: dict[str, Hang]) -> None:
    hung = hangs["stopped"]
    run = hung.run
    print(f"{hung.seconds:.1f} s from the signal to the end, of which {HANG_SECONDS} s are the limit")
    assert hung.seconds < HANG_SECONDS + 30
    assert hung.codes == [-signal.SIGKILL] * 2, "a milder signal does not end a dead collective"
    hang = hang_of(run)
    (behind,) = hang["behind"]
    assert (behind["rank"], behind["host"], behind["why"]) == (0, HERE, "stopped")
    assert behind["step"] >= 2 and behind["frames"], "the stack of the stopped rank"
    line = f"hang: no progress for 4 s; rank 0 on {HERE} is behind (stopped, step {behind['step']}, {behind['phase']}); stacks in"
    assert "".join(hung.stderr) == f"{line} {run}/watch/\n"
    for rank in (0, 1):
        assert "recipes/train/loop.py" in (run / "watch" / f"rank_{rank:05d}.stack.txt").read_text()
    event = read_jsonl(run / "events.jsonl")[-1]
    assert event["event"] == "hang" and [one["rank"] for one in event["behind"]] == [0]
    assert str(first_failure(read_endings(run / "watch"))).startswith(f"rank 0 on {HERE} hung (stopped) at step ")
    check_continues(hung.args, run)


def sleep_in_the_data() -> None:
    """For start(before=...): the loader of this rank never returns the batch of update 15."""
    from recipes.train.bad_items import BadItems

    load, peek = BadItems.load, BadItems.peek

    def stuck(self: BadItems, loader: object, update: int) -> object:
        time.sleep(1000 if update == 15 else 0)
        return load(self, loader, update)  # type: ignore[arg-type]

    BadItems.load = stuck  # type: ignore[method-assign,assignment]
    BadItems.peek = lambda self, loader, update: None if update == 15 else peek(self, loader, update)  # type: ignore[method-assign]


def test_a_rank_that_is_stuck_in_python_is_the_straggler(hangs: dict[str, Hang]) -> None:
    (behind,) = hang_of(hangs["stuck"].run)["behind"]
    assert (behind["rank"], behind["phase"], behind["step"], behind["why"]) == (1, "data", 15, "others are at step 15, agree")
    assert any(frame.endswith(" stuck") for frame in behind["frames"]), behind["frames"]


def test_a_killed_rank_is_distinguished_from_ranks_that_lose_the_connection_to_it(args: list[object], tmp_path: Path) -> None:
    run, ranks = tmp_path / "run", begin(args, tmp_path)
    ranks.kill(1)
    wait_for_end(ranks)
    ranks.stop()
    first, second = read_endings(run / "watch")
    assert first.code == 1 and first.message, "rank 0 lost the connection"
    failure = first_failure([first, second])
    assert failure is second and str(failure).startswith(
        f"rank 1 on {HERE} died without an exit code (killed, or crashed in native code) at step "
    )


def test_in_a_stopped_run_every_rank_reports_exit_code_75(args: list[object], tmp_path: Path) -> None:
    run, ranks = tmp_path / "run", begin(args, tmp_path)
    os.kill(ranks.running[1].process.pid or 0, signal.SIGTERM)
    done = ranks.wait()
    assert [(one.returncode, one.stderr) for one in done] == [(75, "")] * 2
    endings = read_endings(run / "watch")
    assert [(one.code, one.host, one.message) for one in endings] == [(75, HERE, "")] * 2 and first_failure(endings) is None


@dataclass(frozen=True)
class NotesEnd:
    """For start(before=...): write a line into a file of the rank at its exit code, at its wait for saves and at that for the watcher."""

    folder: Path

    def __call__(self) -> None:
        """Patch the classes, in the process that runs the command."""
        from recipes.checkpoint.save import CheckpointSaver
        from recipes.watch.watch import Watch

        end, leave, close, path = Watch.end, Watch.close, CheckpointSaver.close, self.folder / os.environ["RANK"]

        def note(text: str) -> None:
            with path.open("a") as file:
                file.write(f"{text}\n")

        Watch.end = lambda self, *args: note(f"exit code {args[0]}") or end(self, *args)  # type: ignore[method-assign]
        Watch.close = lambda self: note("watcher") or leave(self)  # type: ignore[method-assign]
        CheckpointSaver.close = lambda self: note("saves") or close(self)  # type: ignore[method-assign]


def test_an_error_is_reported_by_every_rank_before_it_waits_for_saves(args: list[object], tmp_path: Path) -> None:
    broken = ["--set", "guard.min_target_std=9", "--set", "guard.after_steps=3"]
    notes = NotesEnd(tmp_path)
    done = start_ranks(PRETRAIN_TEXT, [*args, *broken], tmp_path, 2, before={0: notes, 1: notes}).wait()
    assert [one.returncode for one in done] == [3, 3]
    endings = read_endings(tmp_path / "run" / "watch")
    assert [one.code for one in endings] == [3, 3] and done[0].stderr == f"error: {endings[0].message}\n"
    for rank in range(2):
        first, second, *_, last = (tmp_path / str(rank)).read_text().splitlines()
        assert (first, second, last) == ("exit code 3", "saves", "watcher")


def break_engines() -> None:
    """For start(before=...): a defect in start-up."""
    from recipes.train import startup

    def defect(*_: object, **_options: object) -> None:
        raise ValueError("shapes differ")

    startup.build_objective = defect  # type: ignore[assignment]


def test_an_error_in_the_start_up_of_a_resumed_run_is_reported_too(tiny_run: Path, args: list[object], tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    start_ranks(PRETRAIN_TEXT, args, tmp_path, 2, before={0: break_engines, 1: break_engines}).wait()
    endings = read_endings(tmp_path / "run" / "watch")
    assert [(one.code, one.message, one.place) for one in endings] == [(1, "ValueError: shapes differ", "step 2, engines")] * 2
