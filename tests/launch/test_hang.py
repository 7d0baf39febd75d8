"""A run that hangs, is killed or ends, and what RUN_DIR/watch says of it afterwards: two real ranks of the tiny text run."""

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

HANG_SECONDS = 4  # building the engines may take some seconds on a crowded machine
FOREVER = 100_000
HERE = node_name()


def args_of(tiny_run: Path, run: Path) -> list[object]:
    """After a run without a limit, in which DeepSpeed may have had to compile."""
    accepted = {"run__accept_changes": "optim.schedule_steps"}
    settings = overrides(run__max_steps=FOREVER, optim__schedule_steps=FOREVER, run__hang_seconds=HANG_SECONDS, **accepted)
    return ["--data", tiny_run / "prepared", "--run-dir", run, *settings]


@pytest.fixture
def args(tiny_run: Path, tmp_path: Path) -> list[object]:
    """For the run of one test."""
    return args_of(tiny_run, tmp_path / "run")


def begin(args: list[object], cwd: Path, before: dict[int, Callable[[], object]] | None = None) -> Ranks:
    """Two ranks, a few steps after the first checkpoint."""
    ranks = start_ranks(PRETRAIN_TEXT, [*args, "--set", "run.save_steps=10"], cwd, 2, before=before)
    ranks.running[0].wait_until(lambda: (cwd / "run" / "checkpoints" / "latest").exists())
    return ranks


@dataclass(frozen=True)
class Hang:
    """A run that hung, after its end."""

    args: list[object]
    run: Path
    seconds: float
    """Until nothing of it was left."""
    told: list[str]
    """What each rank wrote to stderr."""
    codes: list[int]


@pytest.fixture(scope="module")
def hangs(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Hang]:
    """Two runs that hang at the same time, for most of a hang is waiting: one has a stopped rank 0, whose watcher speaks for all and
    whose process owns the log; in the other one rank 1 gets no data."""
    folders = [tmp_path_factory.mktemp(name) for name in ("stopped", "stuck")]
    commands = [args_of(tiny_run, folder / "run") for folder in folders]
    with ThreadPoolExecutor(2) as waiting:
        ranks = [begin(commands[0], folders[0])]
        os.kill(ranks[0].running[0].process.pid or 0, signal.SIGSTOP)
        ends = [waiting.submit(wait_for_end, ranks[0])]
        ranks.append(begin(commands[1], folders[1], {1: sleep_in_the_data}))
        ends.append(waiting.submit(wait_for_end, ranks[1]))
        seconds = [end.result() for end in ends]
    told = [[one.read("stderr") for one in those.running] for those in ranks]
    codes = [[one.returncode for one in those.wait()] for those in ranks]
    found = [Hang(*facts) for facts in zip(commands, [folder / "run" for folder in folders], seconds, told, codes, strict=True)]
    return dict(zip(("stopped", "stuck"), found, strict=True))


def wait_for_end(ranks: Ranks) -> float:
    """Seconds until neither ranks nor watchers are left; nobody kills them here."""
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
    """The same command takes the run over, clears the watch and goes on from the newest checkpoint."""
    step = int((run / "checkpoints" / "latest").read_text().strip().removeprefix("step_"))
    done = launch(PRETRAIN_TEXT, [*args, "--set", f"run.max_steps={step + 2}"], run.parent)
    assert (done.returncode, done.stderr) == (0, "")
    (resume,) = [event for event in read_jsonl(run / "events.jsonl") if event["event"] == "resume"]
    assert resume["step"] == step and resume["lost_steps"] >= 0
    assert [str(one) for one in read_endings(run / "watch")] == [f"rank 0 on {HERE} ended with exit code 0 at step {step + 2}, leave"]


def test_a_rank_that_is_stopped_is_named_with_node_and_stack_and_the_run_ends_within_30_s(hangs: dict[str, Hang]) -> None:
    hung = hangs["stopped"]
    run = hung.run
    print(f"{hung.seconds:.1f} s from the signal to the end, of which {HANG_SECONDS} s are the limit")
    assert hung.seconds < HANG_SECONDS + 30
    assert hung.codes == [-signal.SIGKILL] * 2, "nothing milder ends a dead collective"
    hang = hang_of(run)
    (behind,) = hang["behind"]
    assert (behind["rank"], behind["host"], behind["why"]) == (0, HERE, "stopped")
    assert behind["step"] >= 2 and behind["frames"], "where in the code it stood"
    line = f"hang: no progress for 4 s; rank 0 on {HERE} is behind (stopped, step {behind['step']}, {behind['phase']}); stacks in"
    assert "".join(hung.told).count("hang: ") == 1 and hung.told[0] == f"{line} {run}/watch/\n"
    for rank in (0, 1):
        assert "recipes/train/loop.py" in (run / "watch" / f"rank_{rank:05d}.stack.txt").read_text()
    event = read_jsonl(run / "events.jsonl")[-1]
    assert event["event"] == "hang" and [one["rank"] for one in event["behind"]] == [0]
    assert str(first_failure(read_endings(run / "watch"))).startswith(f"rank 0 on {HERE} hung (stopped) at step ")
    check_continues(hung.args, run)


def sleep_in_the_data() -> None:
    """For start(before=...): the loader of this rank never gives update 15."""
    from recipes.train.bad_items import BadItems

    load = BadItems.load

    def stuck(self: BadItems, loader: object, update: int) -> object:
        time.sleep(1000 if update == 15 else 0)
        return load(self, loader, update)  # type: ignore[arg-type]

    BadItems.load = stuck  # type: ignore[method-assign,assignment]


def test_a_rank_that_is_stuck_in_python_is_named_as_the_one_that_is_behind(hangs: dict[str, Hang]) -> None:
    (behind,) = hang_of(hangs["stuck"].run)["behind"]
    assert (behind["rank"], behind["phase"], behind["step"], behind["why"]) == (1, "data", 15, "others are at step 15, agree")
    assert any(frame.endswith(" stuck") for frame in behind["frames"]), behind["frames"]


def test_a_rank_that_is_killed_is_told_from_those_that_lose_it(args: list[object], tmp_path: Path) -> None:
    run, ranks = tmp_path / "run", begin(args, tmp_path)
    ranks.kill(1)
    wait_for_end(ranks)
    ranks.stop()
    first, second = read_endings(run / "watch")
    assert first.code == 1 and first.message, "it lost the connection"
    failure = first_failure([first, second])
    assert failure is second and str(failure).startswith(
        f"rank 1 on {HERE} died without an exit code (killed, or crashed in native code) at step "
    )


def test_a_run_that_is_stopped_has_last_words_of_75_on_every_rank(args: list[object], tmp_path: Path) -> None:
    run, ranks = tmp_path / "run", begin(args, tmp_path)
    os.kill(ranks.running[1].process.pid or 0, signal.SIGTERM)
    done = ranks.wait()
    assert [(one.returncode, one.stderr) for one in done] == [(75, "")] * 2
    endings = read_endings(run / "watch")
    assert [(one.code, one.host, one.message) for one in endings] == [(75, HERE, "")] * 2 and first_failure(endings) is None


@dataclass(frozen=True)
class NotesEnd:
    """For start(before=...): last words, and that saves and the watcher are waited for, each a line of a file of its rank."""

    folder: Path

    def __call__(self) -> None:
        """In the process that runs the command."""
        from recipes.checkpoint.save import CheckpointSaver
        from recipes.watch.watch import Watch

        end, leave, close, path = Watch.end, Watch.close, CheckpointSaver.close, self.folder / os.environ["RANK"]

        def note(text: str) -> None:
            with path.open("a") as file:
                file.write(f"{text}\n")

        Watch.end = lambda self, *words: note(f"words {words[0]}") or end(self, *words)  # type: ignore[method-assign]
        Watch.close = lambda self: note("watcher") or leave(self)  # type: ignore[method-assign]
        CheckpointSaver.close = lambda self: note("saves") or close(self)  # type: ignore[method-assign]


def test_an_error_is_a_last_word_on_every_rank_before_saves_are_waited_for(args: list[object], tmp_path: Path) -> None:
    broken = ["--set", "guard.min_target_std=9", "--set", "guard.after_steps=3"]
    notes = NotesEnd(tmp_path)
    done = start_ranks(PRETRAIN_TEXT, [*args, *broken], tmp_path, 2, before={0: notes, 1: notes}).wait()
    assert [one.returncode for one in done] == [3, 3]
    endings = read_endings(tmp_path / "run" / "watch")
    assert [one.code for one in endings] == [3, 3] and done[0].stderr == f"error: {endings[0].message}\n"
    for rank in range(2):
        first, second, *_, last = (tmp_path / str(rank)).read_text().splitlines()
        assert (first, second, last) == ("words 3", "saves", "watcher")


def break_engines() -> None:
    """For start(before=...): a defect in start-up."""
    from recipes.train import startup

    def defect(*_: object) -> None:
        raise ValueError("shapes differ")

    startup.build_objective = defect  # type: ignore[assignment]


def test_so_is_one_in_the_start_up_of_a_run_that_goes_on(tiny_run: Path, args: list[object], tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    start_ranks(PRETRAIN_TEXT, args, tmp_path, 2, before={0: break_engines, 1: break_engines}).wait()
    endings = read_endings(tmp_path / "run" / "watch")
    assert [(one.code, one.message, one.place) for one in endings] == [(1, "ValueError: shapes differ", "step 2, engines")] * 2
