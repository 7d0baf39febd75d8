"""Due, failed and slow checkpoints. The objective and the files are real, the steps are made up, and one rank has faults."""

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
    """Replaces write_tensors on this rank. Fails `refusals` times and sleeps `delay` seconds; otherwise writes normally."""

    def __init__(self, write: Callable[..., str]) -> None:
        self._write = write
        self.refusals, self.delay = 0, 0.0

    def __call__(self, path: Path, *args: Any) -> str:
        """Same arguments as write_tensors."""
        time.sleep(self.delay)
        if self.refusals:
            self.refusals -= 1
            raise OSError(28, REFUSED, str(path))
        return self._write(path, *args)


class Session:
    """One of two ranks and its Saving. Steps are made up: every master weight has the number of the saved step as its value."""

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
        """Return small states, and count the calls."""
        self.asked += 1
        return {"loss_scaler": {}}

    def at(self, step: int, method: str = "save_if_due") -> bool:
        """Call `method` of Saving at this step. True if a save is running afterwards."""
        for name, shard in self.run.local().items():
            shard.fill_(float(step) if name.startswith("master/") else 0.0)
        getattr(self.saving, method)(Counters(step=step), self.small_states)
        return self.run.saver.is_busy

    def complaint(self, step: int) -> str:
        """Return the error message of finish() at this step."""
        with pytest.raises(ConfigError) as caught:
            self.at(step, "finish")
        return str(caught.value)


def save_and_retry(session: Session, second: bool) -> dict[str, Any]:
    """Save at due steps, let the second rank fail, and retry."""
    due = [step for step in range(1, SAVE_STEPS + 1) if session.at(step)]
    found: dict[str, Any] = {"due": due, "asked": session.asked, "first": session.saving.collect(SAVE_STEPS + 1)}
    session.faults.refusals = int(second)
    session.at(2 * SAVE_STEPS)
    found["failed"] = session.saving.collect(2 * SAVE_STEPS + 1)
    found["retried"] = [step for step in range(2 * SAVE_STEPS + 1, 3 * SAVE_STEPS) if not session.run.saver.is_busy and session.at(step)]
    found["retry"] = session.saving.collect(3 * SAVE_STEPS - 1)
    return found


def save_slowly(session: Session) -> dict[str, Any]:
    """Let a save become due while another one is running, then end the run."""
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
    """Let the last save fail twice, then every time."""
    from recipes.train import saving

    saving.LAST_PAUSE_SECONDS = 0.01
    session.faults.refusals = 2 * second
    session.at(90, "finish")
    session.faults.refusals = 100 * second
    complaint = session.complaint(95)
    session.faults.refusals = 0
    return {"complaint": complaint}


def leave(session: Session) -> dict[str, Any]:
    """Leave the block after a second SIGINT, and after an error."""
    session.faults.delay = SLOW_SECONDS
    session.at(100)
    session.saving.__exit__(KeyboardInterrupt, None, None)
    impatient = session.run.saver.is_busy and not session.saving.written_step() and session.saving.running_step == 100
    with pytest.raises(RuntimeError), session.saving:
        session.at(120)  # waits for the save before
        raise RuntimeError("a defect")
    return {"collected": not session.run.saver.is_busy, "impatient": impatient}


def one_rank(prepared: Path, path: Path) -> dict[str, Any]:
    """Run all parts on one rank, in one process group."""
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
    """The results of both ranks."""
    return run_distributed(one_rank, 2, prepare_small("text", tmp_path_factory.mktemp("data")), path, timeout=200)


@pytest.fixture
def events(ranks: list[dict[str, Any]], path: Path) -> list[tuple[Any, ...]]:
    """(event, step) of the save events, in order."""
    return [(row["event"], row["step"]) for row in read_jsonl(path / "events.jsonl") if row["event"].startswith("save")]


def rows(path: Path, event: str) -> dict[int, dict[str, Any]]:
    """Return step -> the last event of this kind."""
    return {row["step"]: row for row in read_jsonl(path / "events.jsonl") if row["event"] == event}


def masters(folder: Path) -> set[float]:
    """Return every distinct value of the master weights in a checkpoint."""
    from recipes.checkpoint.load import CheckpointReader

    reader = CheckpointReader(folder)
    return {float(value) for name in reader.names("master") for value in reader.whole("master", name).unique()}


def test_a_save_is_due_every_save_steps_and_calls_small_states_only_then(ranks: list[dict[str, Any]], path: Path) -> None:
    for found in ranks:
        assert (found["due"], found["asked"]) == ([SAVE_STEPS], 1) and found["first"].problem is None
    facts = read_manifest(step_folder(path, SAVE_STEPS)).metadata
    assert facts["who"] == "a test" and facts["loss_scaler"] == {} and facts["recipe"]["run"]["save_steps"] == SAVE_STEPS
    saved = rows(path, "save")[SAVE_STEPS]
    assert saved["bytes"] == read_manifest(step_folder(path, 20)).num_bytes()
    assert saved["copy_seconds"] >= 0 and saved["write_seconds"] > 0


def test_a_failed_save_is_reported_and_tried_again_before_the_next_is_due(ranks: list[dict[str, Any]], path: Path) -> None:
    for found in ranks:
        assert REFUSED in found["failed"].problem and found["retried"] == [43] and found["retry"].problem is None
    failed = rows(path, "save_failed")[2 * SAVE_STEPS]
    assert failed["retry_step"] == 43 and REFUSED in failed["reason"]
    assert not step_folder(path, 40).exists() and masters(step_folder(path, 43)) == {43.0}


def test_a_save_waits_for_the_previous_one_and_their_contents_do_not_mix(ranks: list[dict[str, Any]], path: Path) -> None:
    for found in ranks:
        assert found["waited"] >= SLOW_SECONDS / 2
    assert rows(path, "save")[60]["wait_seconds"] >= SLOW_SECONDS / 2
    assert [masters(step_folder(path, step)) for step in (60, 80, 85)] == [{60.0}, {80.0}, {85.0}]


def test_the_last_step_is_saved_once_and_tried_again_if_the_disk_refuses(
    ranks: list[dict[str, Any]], events: list[tuple[Any, ...]], path: Path
) -> None:
    assert not any(found["saved_twice"] for found in ranks)
    assert events[events.index(("save", 85)) :][:4] == [("save", 85), ("save_failed", 90), ("save_failed", 90), ("save", 90)]
    assert masters(step_folder(path, 90)) == {90.0}


def test_a_run_that_cannot_save_its_last_step_names_the_step_from_which_it_continues(
    ranks: list[dict[str, Any]], events: list[tuple[Any, ...]], path: Path
) -> None:
    for found in ranks:
        assert found["complaint"].startswith("the checkpoint of step 95 could not be written (")
        assert REFUSED in found["complaint"] and found["complaint"].endswith("which continues from step 90")
    assert events.count(("save_failed", 95)) == 3 and not step_folder(path, 95).exists()


def test_a_running_save_is_finished_unless_the_user_interrupts_twice(
    ranks: list[dict[str, Any]], events: list[tuple[Any, ...]], path: Path
) -> None:
    for found in ranks:
        assert found["collected"] and found["impatient"]
    assert events[-2:] == [("save", 100), ("save", 120)] and newest(path) == step_folder(path, 120)


def steps_of_collecting(run_dir: Path, prepared: Path, is_early: bool) -> list[int]:
    """Return the steps at which a run of four updates, saved at steps 2 and 4, collects its saves. Update 3 waits for the first save. The
    data of an update are ready while the update before runs if `is_early`, else only when it begins."""
    from recipes.train import loop
    from recipes.train.saving import Saving

    steps, collect, train_step = list[int](), Saving.collect, loop.train_step

    def noted(self: Saving, step: int) -> Any:
        steps.append(step)
        return collect(self, step)

    def patient(state: Any, logs: bool) -> Any:
        deadline, loader = time.monotonic() + 60, state.data.loader
        while state.step == 2 and not steps and not state.saving.written_step() and time.monotonic() < deadline:
            time.sleep(0.01)
        loader.peek = lambda update: loader._prefetched[1].result() if is_early else None
        return train_step(state, logs)

    Saving.collect, loop.train_step = noted, patient  # type: ignore[method-assign]
    run_rank(run_dir, prepared, ONE, UNDISTURBED, {}, {"run__save_steps": 2})
    return steps


@pytest.mark.parametrize(("is_early", "steps"), [(False, [2, 4]), (True, [3, 4])], ids=["late_data", "early_data"])
def test_a_save_is_reported_soon_after_it_was_written_not_when_the_next_one_is_due(
    tmp_path: Path, is_early: bool, steps: list[int]
) -> None:
    """At the next update, or at the one after it if the exchange for the next one had begun."""
    prepared = prepare_pictures(tmp_path)
    assert run_distributed(steps_of_collecting, 1, tmp_path / "run", prepared, is_early) == [steps]
