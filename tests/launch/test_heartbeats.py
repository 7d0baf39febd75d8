"""The heartbeats of two real ranks in a run of the tiny settings, one by one. Finding the straggler of a hang depends on their order.
Hangs themselves: test_hang.py."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from recipes.cluster.slurm import node_name
from tests.launching import PRETRAIN_TEXT, ROOT, overrides, read_jsonl, start_ranks

HeartbeatRow = tuple[str, int, int, bool]
"""Phase, step, micro-batch, and whether hang detection is suspended from now on."""
HERE = [node_name()] * 2
LIMIT = 77.5


@dataclass(frozen=True)
class NotesHeartbeats:
    """For start(before=...): write every heartbeat of this process as a line of a file, with the roster at that moment."""

    path: Path
    run_dir: Path

    def __call__(self) -> None:
        """Patch the functions, in the process that runs the command."""
        from recipes.watch import watch

        write_heartbeat, renew_heartbeat, start = watch.write_heartbeat, watch.renew_heartbeat, watch.Watch.start

        def note(*heartbeat: object) -> None:
            roster = self.run_dir / "watch" / "ranks.json"
            row = {"heartbeat": heartbeat, "roster": json.loads(roster.read_text()) if roster.exists() else None}
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")

        def beat(memory: Any, number: int, step: int, micro_batch: int, phase: str, *, is_paused: bool) -> None:
            note(phase, step, micro_batch, is_paused)
            write_heartbeat(memory, number, step, micro_batch, phase, is_paused=is_paused)

        def alive(memory: Any) -> None:
            note("alive")
            renew_heartbeat(memory)

        def begin(self: watch.Watch) -> None:
            note(asdict(self._target))
            start(self)

        watch.write_heartbeat, watch.renew_heartbeat, watch.Watch.start = beat, alive, begin  # type: ignore[method-assign]


def heartbeats_of_run(tmp_path: Path, book: Path, max_steps: int) -> list[list[dict[str, Any]]]:
    """Run one launch with two micro-batches per update and a save at every step. Returns the lines of every rank."""
    config = tmp_path / "two_micro_batches.json"
    config.write_text((ROOT / "ds_configs" / "zero3_cpu.json").read_text().replace('gpu": "auto"', 'gpu": 2'))
    settings = overrides(data__heldout_fraction=0.2, run__max_steps=max_steps, run__eval_steps=2, run__eval_samples=8, run__save_steps=1)
    args = ["--data", book, "--run-dir", "run", "--deepspeed_config", config, *settings, "--set", f"run.hang_seconds={LIMIT}"]
    notes = [tmp_path / f"{max_steps}_{rank}.jsonl" for rank in range(2)]
    hooks = {rank: NotesHeartbeats(path, tmp_path / "run") for rank, path in enumerate(notes)}
    done = start_ranks(PRETRAIN_TEXT, args, tmp_path, 2, before=hooks).wait()  # type: ignore[arg-type]
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    return [read_jsonl(path) for path in notes]


def setup_at(step: int) -> list[HeartbeatRow]:
    """Return the heartbeats from the start of the watcher to the loop."""
    phases = [("start", False), ("prepare", True), ("prepare", False), ("data set", False), ("engines", False), ("load", False)]
    return [(phase, step if number > 2 else 0, 0, paused) for number, (phase, paused) in enumerate([*phases, ("logs", False)])]


def update_from(step: int, *, evaluates: bool) -> list[HeartbeatRow]:
    """Return the heartbeats of one applied update of two micro-batches, and of what follows it."""
    halves = [(phase, step, number, False) for number in (0, 1) for phase in ("forward", "backward")]
    update = [
        ("data", step, 0, False),
        ("agree", step, 0, False),
        *halves,
        *((phase, step, 0, False) for phase in ("judge", "step", "after step")),
    ]
    after = [*[("evaluate", step + 1, number, False) for number in (0, 1) if evaluates], ("report", step + 1, 0, False)]
    return [*update, *after, ("save", step + 1, 0, True), ("save", step + 1, 0, False)]


def end_at(step: int) -> list[HeartbeatRow]:
    """Return the heartbeats after the loop."""
    return [("last save", step, 0, True), ("last save", step, 0, False), ("leave", step, 0, False)]


@pytest.fixture(scope="module")
def launches(tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[list[dict[str, Any]]]]:
    """The lines of both ranks in two launches: two updates of a new run, then one more update by the same command."""
    folder = tmp_path_factory.mktemp("heartbeats")
    return [heartbeats_of_run(folder, tiny_text, max_steps) for max_steps in (2, 3)]


def test_every_rank_gives_the_same_heartbeats_in_the_same_order_with_pauses_around_unbounded_waits(
    launches: list[list[list[dict[str, Any]]]],
) -> None:
    first = [*setup_at(0), *update_from(0, evaluates=False), *update_from(1, evaluates=True), *end_at(2)]
    again = [*setup_at(2), *update_from(2, evaluates=True), *end_at(3)]
    for launch, expected in zip(launches, (first, again), strict=True):
        for rows in launch:
            _, *heartbeats = [tuple(row["heartbeat"]) for row in rows]
            assert [heartbeat for heartbeat in heartbeats if heartbeat != ("alive",)] == expected


def test_each_built_parameter_and_each_loaded_range_gives_a_heartbeat(launches: list[list[list[dict[str, Any]]]]) -> None:
    for rows in launches[1]:
        phases = [row["heartbeat"][0] for row in rows]
        build, load, logs = phases.index("engines"), phases.index("load"), phases.index("logs")
        for part in (phases[build + 1 : load], phases[load + 1 : logs]):
            assert set(part) == {"alive"} and len(part) > 10
        assert phases.count("alive") == logs - build - 2, "at no other time"


def test_a_watcher_gets_its_own_rank_all_hosts_the_folder_and_the_recipes_limit(launches: list[list[list[dict[str, Any]]]]) -> None:
    for launch in launches:
        for rank, rows in enumerate(launch):
            (target,) = rows[0]["heartbeat"]
            assert (target["rank"], target["hosts"], target["hang_seconds"]) == (rank, HERE, LIMIT)
            assert target["folder"].endswith("/run/watch") and target["folder"].startswith("/")


def test_the_roster_exists_as_soon_as_there_is_a_run(launches: list[list[list[dict[str, Any]]]]) -> None:
    """A resumed launch writes the roster before its watchers run, the first launch when its logs are open."""
    first, again = launches
    for rank in range(2):
        phases, rosters = [row["heartbeat"][0] for row in first[rank]], [row["roster"] for row in first[rank]]
        engines, loop = (
            phases.index("engines"),
            phases.index("data"),
        )  # between these two the roster may exist or not, because rank 0 may be ahead
        assert rosters[: engines + 1] == [None] * (engines + 1) and rosters[loop:] == [HERE] * len(rosters[loop:])
        assert [row["roster"] for row in again[rank]] == [HERE] * len(again[rank])
