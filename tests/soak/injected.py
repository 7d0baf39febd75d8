"""Raises an unexpected error at each of many places of a run. The process must end within seconds with exit code 1, and nothing that it
started may be left.

python -m tests.soak.injected --out results/injected.json
python -m tests.soak.injected --places "save: file" "worker: sample" --ranks 2 --workers 2

Every place is tried with 1 and 2 ranks, without and with 2 worker processes per rank. No launcher ends the other ranks. All ranks are
forked from this process, which has imported everything, and end as Python's main program ends.
"""

import argparse
import gc
import importlib
import os
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.distributed import SERVER_ENV
from tests.disturbed import conclude
from tests.launching import BASE_ENV, PRETRAIN, overrides, tiny_recipe
from tests.made_up import write_pictures
from tests.processes import processes_of

LIMIT_SECONDS = 15.0
"""Longest allowed time from the error until no process is left."""
PATIENCE_SECONDS = 90.0
"""Time from the start of a run until the processes that are left of it are killed."""
RAISED = "raised"
"""Name of the file whose modification time shows when the error was raised."""
SETTINGS: dict[str, object] = {"run__max_steps": 4, "run__save_steps": 2, "run__eval_steps": 2, "run__log_steps": 1, "run__eval_samples": 8}


@dataclass(frozen=True)
class Place:
    """Where the error is raised: at the `call`-th call of `target` (module:attributes). `on_first`: on rank 0, because only that calls it;
    otherwise on the last rank."""

    target: str
    call: int = 1
    on_first: bool = False


LOOP, START, DATA, SAVE = "recipes.train.loop", "recipes.train.startup", "recipes.data.loader", "recipes.checkpoint.save:CheckpointSaver"
OBJECTIVE, WRITER = "recipes.objectives.data2vec:Data2Vec", "recipes.train.metrics:MetricsWriter"
PLACES = {
    "start: world": Place("recipes.cluster.world:node_name"),
    "start: world check": Place(f"{START}:check_world"),
    "start: precision": Place(f"{START}:check_precision"),
    "start: run dir": Place(f"{START}:RunDir", on_first=True),
    "start: recipe of the run": Place(f"{START}:check_same_recipe", on_first=True),
    "start: leftovers": Place(f"{START}:remove_leftovers", on_first=True),
    "start: same run dir": Place(f"{START}:check_run_dir"),
    "start: watch": Place("recipes.watch.watch:Watch.start"),
    "start: preparation": Place(f"{START}:StartUp._prepare", on_first=True),
    "start: same data": Place(f"{START}:check_same"),
    "start: data of the run": Place(f"{START}:check_same_data", on_first=True),
    "start: groups": Place(f"{START}:init_parallel"),
    "start: loader": Place(f"{START}:build_loader"),
    "start: kernels": Place(f"{START}:choose_kernels"),
    "start: engines": Place(f"{START}:build_objective"),
    "start: checkpoint": Place(f"{START}:load_newest"),
    "start: saver": Place(f"{START}:CheckpointSaver"),
    "start: logs": Place(f"{START}:StartUp._open_logs", on_first=True),
    "start: first lines": Place(f"{START}:start_block", on_first=True),
    "loop: begin": Place(f"{LOOP}:train"),
    "loop: agree": Place(f"{LOOP}:_sum_over_ranks", 3),
    "loop: rate": Place(f"{LOOP}:learning_rate", 3),
    "loop: count": Place(f"{OBJECTIVE}.count", 3),
    "loop: forward": Place(f"{OBJECTIVE}.forward", 3),
    "loop: backward": Place(f"{LOOP}:backward", 3),
    "loop: judge": Place("recipes.train.guard:UpdateGuard.judge", 3),
    "loop: step": Place(f"{LOOP}:step", 3),
    "loop: after step": Place(f"{OBJECTIVE}.after_step", 3),
    "loop: events": Place(f"{LOOP}:report_update", 3),
    "loader: first batches": Place(f"{DATA}:UpdateLoader.batches"),
    "loader: batches": Place(f"{DATA}:UpdateLoader.batches", 3),
    "loader: background": Place(f"{DATA}:UpdateLoader._next_micro_batch", 3),
    "loader: order": Place(f"{DATA}:UpdateOrder.positions", 4),
    "loader: bad items": Place("recipes.train.bad_items:BadItems.note", 3),
    "worker: sample": Place(f"{DATA}:BatchBuilder.dataset.example", 5),
    "worker: collate": Place(f"{DATA}:BatchBuilder.dataset.collate", 2),
    "worker: bad items": Place(f"{DATA}:BatchBuilder.dataset.take_bad", 2),
    "evaluation: samples": Place(f"{LOOP}:heldout_batches"),
    "evaluation: objective": Place(f"{OBJECTIVE}.evaluate"),
    "report": Place(f"{LOOP}:report", 2),
    "report: line": Place(f"{WRITER}.write", 2, on_first=True),
    "save: due": Place("recipes.train.saving:Saving.save_if_due", 2),
    "save: copy": Place(f"{SAVE}.begin"),
    "save: thread": Place(f"{SAVE}._write"),
    "save: file": Place(f"{SAVE}._write_file"),
    "save: publish": Place(f"{SAVE}._publish", on_first=True),
    "save: last": Place("recipes.train.saving:Saving.finish"),
    "end: lines": Place(f"{LOOP}:finish"),
    "end: picture": Place("recipes.train.report:plot_metrics", on_first=True),
    "end: writer": Place(f"{WRITER}.close", on_first=True),
    "end: groups": Place(f"{LOOP}:leave_world"),
}


LAST = ("save: last", *(place for place in PLACES if place.startswith("end: ")))


@dataclass(frozen=True)
class Case:
    """One run: the place of the error, number of ranks, and worker processes per rank."""

    place: str
    ranks: int
    workers: int


@dataclass(frozen=True)
class Ending:
    """How a run ended: the exit codes of its ranks, and the command lines of processes that were left. `seconds`: from the error until no
    process was left; None if the error was never raised."""

    codes: list[int | None]
    seconds: float | None
    left: list[str]

    def holds(self, case: Case) -> bool:
        """True if the run ended as it must. If the error comes after the last update, the other ranks may end with 0."""
        others = {0, 1} if case.place in LAST else {1}
        return 1 in self.codes and others >= set(self.codes) and (self.seconds or 1e9) <= LIMIT_SECONDS and not self.left


class Raises:
    """Replaces a function by one that raises at its `call`-th call. It is pickled into worker processes, each of which counts its own
    calls."""

    def __init__(self, function: Callable[..., Any], call: int, mark: Path) -> None:
        self.function, self.left, self.mark = function, call, mark

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the function and return its result, or raise the error."""
        self.left -= 1
        if self.left == 0:
            self.mark.touch()
            raise RuntimeError("injected: CUDA out of memory, or another unexpected error")
        return self.function(*args, **options)


class BrokenData:
    """A data set of which one method raises, in every process that uses the data set."""

    def __init__(self, data: Any, name: str, raises: Raises) -> None:
        self.data, self.name, self.raises = data, name, raises

    def __len__(self) -> int:
        return len(self.data)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # while it is unpickled it has no attributes yet
            raise AttributeError(name)
        if name != self.name:
            return getattr(self.data, name)
        self.raises.function = getattr(self.data, name)
        return self.raises


def inject(place: Place, mark: Path) -> None:
    """Install the error at `place`, for this process and those that it starts. `mark`: the file that is written when the error is
    raised."""
    module, _, path = place.target.partition(":")
    owner: Any = importlib.import_module(module)
    if path.startswith("BatchBuilder.dataset."):
        build = owner.BatchBuilder.__init__

        def broken(self: Any, dataset: Any) -> None:
            build(self, BrokenData(dataset, path.rpartition(".")[2], Raises(len, place.call, mark)))

        owner.BatchBuilder.__init__ = broken
        return
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    raises = Raises(getattr(owner, name), place.call, mark)
    setattr(owner, name, (lambda *args, **options: raises(*args, **options)) if parents else raises)  # a function is bound to its object


def start(case: Case, prepared: Path, folder: Path) -> list[int]:
    """Fork the ranks of a run, and return their process ids. In a rank this function never returns: it runs the script and ends as a main
    program does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    pids = []
    for rank in range(case.ranks):
        pid = os.fork()
        if not pid:
            os.setsid()
            log = os.open(folder / f"log{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if case.ranks > 1:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(case.ranks), "MASTER_ADDR": "127.0.0.1"}
                os.environ |= {"LOCAL_WORLD_SIZE": str(case.ranks), "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
            place = PLACES[case.place]
            if rank == (0 if place.on_first else case.ranks - 1):
                inject(place, folder / RAISED)
            settings = overrides("vision", **SETTINGS, data__num_workers=case.workers)
            sys.argv = [str(PRETRAIN["vision"]), "--data", str(prepared), "--run-dir", str(folder / "run"), *settings]
            runpy.run_path(sys.argv[0], run_name="__main__")
        pids.append(pid)
    return pids


def follow(pids: list[int], folder: Path) -> Ending:
    """Wait until no process of the ranks is left, kill what has not ended after PATIENCE_SECONDS, and return how the run ended."""
    codes: dict[int, int | None] = dict.fromkeys(pids)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (None in codes.values() or any(map(processes_of, pids))) and time.monotonic() < deadline:
        for pid in [pid for pid in pids if codes[pid] is None]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            codes[pid] = os.waitstatus_to_exitcode(status) if ended else None
        time.sleep(0.02)
    now, mark = time.time(), folder / RAISED
    left = [command for pid in pids for command in processes_of(pid)]
    for pid in pids:
        if processes_of(pid):
            os.killpg(pid, signal.SIGKILL)
        if codes[pid] is None:
            os.waitpid(pid, 0)
    return Ending(list(codes.values()), round(now - mark.stat().st_mtime, 1) if mark.exists() else None, left)


def cases_of(args: argparse.Namespace) -> Iterator[Case]:
    """Yield all combinations of places, numbers of ranks and numbers of worker processes that the flags ask for."""
    for place in args.places:
        yield from (Case(place, ranks, workers) for ranks in args.ranks for workers in args.workers)


def main() -> int:
    """Run all cases and print the result. Returns the exit code: 1 if a case fails. Ranks are forked while no context manager is open,
    since they would leave it too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES), metavar="PLACE")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2])
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    args = parser.parse_args()
    begin, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="injected_"))
    os.environ |= {**SERVER_ENV, **BASE_ENV, "CUDA_VISIBLE_DEVICES": ""}
    for name in ("recipes.train.loop", "recipes.modalities.vision", "recipes.objectives.data2vec", "matplotlib.pyplot"):
        importlib.import_module(name)
    from recipes.modalities.registry import MODALITIES

    (folder / "pictures").mkdir()
    recipe = tiny_recipe("vision", data__path=write_pictures(folder / "pictures"))
    prepared = MODALITIES["vision"].prepare(recipe, folder / "prepared", num_processes=1)
    gc.freeze()
    failures, endings = [], []
    for number, case in enumerate(cases_of(args)):
        place = folder / str(number)
        place.mkdir()
        ending = follow(start(case, prepared, place), place)
        endings.append(ending)
        print(
            f"{case.place:26} ranks {case.ranks} workers {case.workers}: exit {ending.codes}, gone after {ending.seconds} s,"
            f" left {len(ending.left)}{'' if ending.holds(case) else '  FAILED'}",
            flush=True,
        )
        if not ending.holds(case):
            logs = {path.name: path.read_text(errors="replace")[-2000:] for path in sorted(place.glob("log*"))}
            failures.append({"case": asdict(case), "ending": asdict(ending), "logs": logs})
    shutil.rmtree(folder)
    worst = max((ending.seconds for ending in endings if ending.seconds is not None), default=None)
    return conclude(
        {"soak": "injected", "places": len(args.places), "count": len(endings), "worst_seconds": worst, "failures": failures},
        begin,
        args.out,
    )


if __name__ == "__main__":
    from tests.soak import injected  # under its own name, so that its pickles can be loaded while a script is the main program

    sys.exit(injected.main())
