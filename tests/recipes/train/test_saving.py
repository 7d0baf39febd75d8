"""When checkpoints are due, and what becomes of failed and slow ones: a real objective and files, made-up steps, faults in one rank."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recipes.checkpoint.layout import Counters, newest, read_manifest, step_folder
from recipes.errors import ConfigError
from tests.distributed import run_distributed
from tests.launching import read_jsonl
from tests.recipes.checkpoint.topology import Topology, prepare_small, small_recipe
from tests.recipes.train.faulty import ONE, UNDISTURBED, prepare_pictures, run_rank

SAVE_STEPS = 20
SLOW_SECONDS = 0.4
REFUSED = "No space left on device"


class Faults:
    """Stands before write_tensors in this rank: refuses or delays, and writes all the same where it is not asked to."""

    def __init__(self, write: Callable[..., str]) -> None:
        self._write = write
        self.refusals, self.delay = 0, 0.0

    def __call__(self, path: Path, *args: Any) -> str:
        """As write_tensors."""
        time.sleep(self.delay)
        if self.refusals:
            self.refusals -= 1
            raise OSError(28, REFUSED, str(path))
        return self._write(path, *args)


class Session:
    """One rank of two and its Saving, whose steps are made up: all master weights are the step that is saved."""

    def __init__(self, prepared: Path, path: Path) -> None:
        from recipes.checkpoint import save
        from recipes.run_dir.run_dir import RunDir
        from recipes.train.saving import Saving
        from tests.recipes.checkpoint.live_run import LiveRun

        recipe = small_recipe("text", f"run.save_steps={SAVE_STEPS}")
        self.run = LiveRun(recipe, Topology(dp_size=2), prepared, path)
        self.owner = RunDir(path) if self.run.world.rank == 0 else None
        self.saving = Saving(self.run.saver, recipe, {"who": "a test"}, 0, self.owner)
        self.faults = save.write_tensors = Faults(save.write_tensors)
        self.asked = 0

    def small_states(self) -> dict[str, Any]:
        """Counted."""
        self.asked += 1
        return {"loss_scaler": {}}

    def at(self, step: int, method: str = "save_if_due") -> bool:
        """Call it at this step; whether a save is running then."""
        for name, shard in self.run.local().items():
            shard.fill_(float(step) if name.startswith("master/") else 0.0)
        getattr(self.saving, method)(Counters(step=step), self.small_states)
        return self.run.saver.is_busy

    def complaint(self, step: int) -> str:
        """What finish() at this step says."""
        with pytest.raises(ConfigError) as caught:
            self.at(step, "finish")
        return str(caught.value)


def save_and_retry(session: Session, second: bool) -> dict[str, Any]:
    """Due steps, a failure of the second rank, its retry."""
    due = [step for step in range(1, SAVE_STEPS + 1) if session.at(step)]
    found: dict[str, Any] = {"due": due, "asked": session.asked, "first": session.saving.collect(SAVE_STEPS + 1)}
    session.faults.refusals = int(second)
    session.at(2 * SAVE_STEPS)
    found["failed"] = session.saving.collect(2 * SAVE_STEPS + 1)
    found["retried"] = [step for step in range(2 * SAVE_STEPS + 1, 3 * SAVE_STEPS) if not session.run.saver.is_busy and session.at(step)]
    found["retry"] = session.saving.collect(3 * SAVE_STEPS - 1)
    return found


def save_slowly(session: Session) -> dict[str, Any]:
    """A save becomes due while one is running; then the end of the run comes."""
    session.faults.delay = SLOW_SECONDS
    session.at(60)
    start = time.perf_counter()
    session.at(80)
    waited = time.perf_counter() - start
    session.at(85, "finish")
    before = session.asked
    session.at(85, "finish")
    session.faults.delay = 0.0
    return {"waited": waited, "saved_twice": session.asked != before}


def save_at_last(session: Session, second: bool) -> dict[str, Any]:
    """The last save fails twice, then every time."""
    from recipes.train import saving

    saving.LAST_PAUSE_SECONDS = 0.01
    session.faults.refusals = 2 * second
    session.at(90, "finish")
    session.faults.refusals = 100 * second
    complaint = session.complaint(95)
    session.faults.refusals = 0
    return {"complaint": complaint}


def leave(session: Session) -> dict[str, Any]:
    """Out of the block by a second SIGINT, and by an error."""
    session.faults.delay = SLOW_SECONDS
    session.at(100)
    session.saving.__exit__(KeyboardInterrupt, None, None)
    impatient = session.run.saver.is_busy and not session.saving.is_written()
    with pytest.raises(RuntimeError), session.saving:
        session.at(120)  # waits for the one before
        raise RuntimeError("a defect")
    return {"told": not session.run.saver.is_busy, "impatient": impatient}


def one_rank(prepared: Path, path: Path) -> dict[str, Any]:
    """All of it in one process group."""
    session = Session(prepared, path)
    second = session.run.world.rank == 1
    found: dict[str, Any] = {}
    for part in (partial(save_and_retry, second=second), save_slowly, partial(save_at_last, second=second), leave):
        found |= part(session)
    if session.owner:
        session.owner.release()
    return found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run dir."""
    return tmp_path_factory.mktemp("saving") / "run"


@pytest.fixture(scope="module")
def ranks(path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both ranks saw."""
    return run_distributed(one_rank, 2, prepare_small("text", tmp_path_factory.mktemp("data")), path, timeout=200)


@pytest.fixture
def events(ranks: list[dict[str, Any]], path: Path) -> list[tuple[Any, ...]]:
    """(event, step) of the saves, in order."""
    return [(row["event"], row["step"]) for row in read_jsonl(path / "events.jsonl") if row["event"].startswith("save")]


def rows(path: Path, event: str) -> dict[int, dict[str, Any]]:
    """Step -> the last such event."""
    return {row["step"]: row for row in read_jsonl(path / "events.jsonl") if row["event"] == event}


def masters(folder: Path) -> set[float]:
    """Every value of the master weights in a checkpoint."""
    from recipes.checkpoint.load import CheckpointReader

    reader = CheckpointReader(folder)
    return {float(value) for name in reader.names("master") for value in reader.whole("master", name).unique()}


def test_a_save_is_due_every_save_steps_and_asks_for_small_states_only_then(ranks: list[dict[str, Any]], path: Path) -> None:
    for found in ranks:
        assert (found["due"], found["asked"]) == ([SAVE_STEPS], 1) and found["first"].problem is None
    facts = read_manifest(step_folder(path, SAVE_STEPS)).facts
    assert facts["who"] == "a test" and facts["loss_scaler"] == {} and facts["recipe"]["run"]["save_steps"] == SAVE_STEPS
    saved = rows(path, "save")[SAVE_STEPS]
    assert saved["bytes"] == read_manifest(step_folder(path, 20)).num_bytes()
    assert saved["copy_seconds"] >= 0 and saved["write_seconds"] > 0


def test_a_failed_save_is_told_and_tried_again_before_the_next_is_due(ranks: list[dict[str, Any]], path: Path) -> None:
    for found in ranks:
        assert REFUSED in found["failed"].problem and found["retried"] == [43] and found["retry"].problem is None
    failed = rows(path, "save_failed")[2 * SAVE_STEPS]
    assert failed["retry_step"] == 43 and REFUSED in failed["reason"]
    assert not step_folder(path, 40).exists() and masters(step_folder(path, 43)) == {43.0}


def test_a_save_waits_for_the_one_before_and_neither_holds_anything_of_the_other(ranks: list[dict[str, Any]], path: Path) -> None:
    for found in ranks:
        assert found["waited"] >= SLOW_SECONDS / 2
    assert rows(path, "save")[60]["wait_seconds"] >= SLOW_SECONDS / 2
    assert [masters(step_folder(path, step)) for step in (60, 80, 85)] == [{60.0}, {80.0}, {85.0}]


def test_the_last_step_is_saved_once_and_tried_again_where_the_disk_refuses(
    ranks: list[dict[str, Any]], events: list[tuple[Any, ...]], path: Path
) -> None:
    assert not any(found["saved_twice"] for found in ranks)
    assert events[events.index(("save", 85)) :][:4] == [("save", 85), ("save_failed", 90), ("save_failed", 90), ("save", 90)]
    assert masters(step_folder(path, 90)) == {90.0}


def test_a_run_that_cannot_save_its_end_says_where_it_continues_from(
    ranks: list[dict[str, Any]], events: list[tuple[Any, ...]], path: Path
) -> None:
    for found in ranks:
        assert found["complaint"].startswith("the checkpoint of step 95 could not be written (")
        assert REFUSED in found["complaint"] and found["complaint"].endswith("which continues from step 90")
    assert events.count(("save_failed", 95)) == 3 and not step_folder(path, 95).exists()


def test_a_running_save_is_brought_to_its_end_unless_the_user_cannot_wait(
    ranks: list[dict[str, Any]], events: list[tuple[Any, ...]], path: Path
) -> None:
    for found in ranks:
        assert found["told"] and found["impatient"]
    assert events[-2:] == [("save", 100), ("save", 120)] and newest(path) == step_folder(path, 120)


def steps_of_collecting(run_dir: Path, prepared: Path) -> list[int]:
    """Where a run of four updates takes the outcomes of its saves, at steps 2 and 4; no update begins before a save is written."""
    from recipes.train import loop
    from recipes.train.saving import Saving

    steps, collect, train_step = list[int](), Saving.collect, loop.train_step

    def noted(self: Saving, step: int) -> Any:
        steps.append(step)
        return collect(self, step)

    def patient(state: Any, logs: bool) -> Any:
        deadline = time.monotonic() + 60
        while state.step == 2 and not steps and not state.saving.is_written() and time.monotonic() < deadline:
            time.sleep(0.01)
        return train_step(state, logs)

    Saving.collect, loop.train_step = noted, patient  # type: ignore[method-assign]
    run_rank(run_dir, prepared, ONE, UNDISTURBED, {}, {"run__save_steps": 2})
    return steps


def test_a_save_is_told_at_the_update_after_it_was_written_not_when_the_next_one_is_due(tmp_path: Path) -> None:
    prepared = prepare_pictures(tmp_path)
    assert run_distributed(steps_of_collecting, 1, tmp_path / "run", prepared) == [[2, 4]]
