"""Kills and failing disks while checkpoints are written: afterwards, the same command ends with the bits of an undisturbed run.

One fault of each kind, at fixed places. tests/soak/kill.py and tests/soak/disk.py try every place and random ones.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.checkpoint.layout import newest, step_of
from tests.disturbed import LAST, Reference, arguments, curve_of, events_of, finished, make_reference, start_run
from tests.faults import NO_LIMIT, Fault, KilledInBackward, Operation, obey_permissions, read_operations
from tests.launching import PRETRAIN_TEXT, launch, refused

KILLED = -signal.SIGKILL
SMALLER_THAN_A_CHECKPOINT = 60_000  # bytes; logs and config.json are smaller still
LEFT_ON_A_FULL_DISK = 40_000
WAIT_SECONDS = 0.1
"""Least time that training must have waited for a disk that is much slower than this. A step takes a tenth of it."""


@pytest.fixture(scope="module")
def single(tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """One rank, undisturbed."""
    return make_reference(tiny_prepared, tmp_path_factory.mktemp("single"), 1)


@pytest.fixture(scope="module")
def pair(tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Two ranks, undisturbed."""
    return make_reference(tiny_prepared, tmp_path_factory.mktemp("pair"), 2)


@pytest.fixture(scope="module")
def halfway(single: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run dir after six steps. Copy it before changing anything."""
    run_dir = tmp_path_factory.mktemp("halfway") / "run"
    finished(single.run(run_dir, run__max_steps=6))
    return run_dir


def find(reference: Reference, label: str, step: int, rank: int = 0) -> Operation:
    """Return the first operation with this label, from the first operation on files of this step."""
    operations = reference.operations[rank]
    begin = next(number for number, operation in enumerate(operations) if f"step_{step:08d}" in operation.path)
    return next(operation for operation in operations[begin:] if operation.label == label)


@pytest.mark.parametrize(
    ("label", "step", "continues_from"),
    [
        ("write rank file in unfinished folder", 6, 3),
        ("rename unfinished folder", 6, 3),
        ("open latest.tmp in checkpoints", 6, 3),
        ("remove manifest.json in deleted folder", 3, 9),
    ],
    ids=["writing", "before the rename", "between rename and latest", "deleting"],
)
def test_a_kill_during_a_save_loses_only_time(label: str, step: int, continues_from: int, single: Reference, tmp_path: Path) -> None:
    run_dir, operation = tmp_path / "run", find(single, label, step)
    (killed,) = single.run(run_dir, {0: Fault("kill", operation.number)})
    assert killed.returncode == KILLED, killed.stderr
    single.check_checkpoints(run_dir)
    assert step_of(newest(run_dir) or run_dir) == continues_from
    finished(single.run(run_dir))
    assert [event["step"] for event in events_of(run_dir, "resume")] == [continues_from]
    single.check_end(run_dir)


def test_a_rank_killed_in_mid_step_ends_the_others_and_loses_nothing(pair: Reference, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    other, killed = pair.run(run_dir, {1: KilledInBackward(8)})
    assert killed.returncode == KILLED and other.returncode not in (0, 75), other.stderr
    pair.check_checkpoints(run_dir)
    assert newest(run_dir) is not None
    finished(pair.run(run_dir))
    pair.check_end(run_dir)


def test_a_rank_killed_while_it_writes_leaves_no_checkpoint_of_that_step(pair: Reference, tmp_path: Path) -> None:
    run_dir, operation = tmp_path / "run", find(pair, "fsync rank file in unfinished folder", 6, rank=1)
    _, killed = pair.run(run_dir, {1: Fault("kill", operation.number)})
    assert killed.returncode == KILLED
    pair.check_checkpoints(run_dir)
    assert step_of(newest(run_dir) or run_dir) == 3
    finished(pair.run(run_dir))
    pair.check_end(run_dir)


def test_a_disk_that_is_full_for_a_moment_costs_one_save_which_is_retried(single: Reference, tmp_path: Path) -> None:
    run_dir, operation = tmp_path / "run", find(single, "write rank file in unfinished folder", 3)
    done = single.run(run_dir, {0: Fault("error", operation.number)})
    finished(done)
    assert re.search("the checkpoint of step 3 was not written .No space left on device", done[0].stdout), done[0].stdout
    (failed,) = events_of(run_dir, "save_failed")
    assert failed["step"] == 3 and re.match("No space left on device: .*rank_00000", failed["reason"]) and 3 < failed["retry_step"] <= 7
    saved = [event["step"] for event in events_of(run_dir, "save")]
    # On a busy machine the failure is first noticed at step 6, whose own save then replaces the retry.
    retried = {failed["retry_step"]} - {7}
    assert saved == sorted(retried | {6, 9, 12})
    single.check_end(run_dir)


def check_continues_from_six(reference: Reference, refusal: subprocess.CompletedProcess[str], run_dir: Path) -> None:
    refused(refusal, rf"^error: the checkpoint of step {LAST} could not be written \(.+\); .* continues from step 6$")
    failed = events_of(run_dir, "save_failed")
    assert failed[0]["step"] == 9 and failed[-1]["step"] == LAST, failed
    reference.check_checkpoints(run_dir)
    assert step_of(newest(run_dir) or run_dir) == 6


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_the_run_which_continues_once_there_is_room(single: Reference, halfway: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(halfway, tmp_path / "run")
    flags = arguments(single.prepared, run_dir)
    check_continues_from_six(single, launch(PRETRAIN_TEXT, flags, tmp_path, file_limit=SMALLER_THAN_A_CHECKPOINT), run_dir)
    finished(single.run(run_dir))
    single.check_end(run_dir)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with a size of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"may not mount here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True, timeout=20)


@pytest.mark.slow
def test_a_file_system_without_room(single: Reference, halfway: Path, small_disk: Path) -> None:
    run_dir = shutil.copytree(halfway, small_disk / "run")
    facts = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(facts.f_bavail * facts.f_frsize - LEFT_ON_A_FULL_DISK))
    check_continues_from_six(single, launch(PRETRAIN_TEXT, arguments(single.prepared, run_dir), small_disk), run_dir)
    (small_disk / "filler").unlink()
    finished(single.run(run_dir))
    single.check_end(run_dir)


@pytest.mark.slow
def test_a_checkpoints_folder_that_is_read_only(single: Reference, halfway: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(halfway, tmp_path / "run")
    (run_dir / "checkpoints").chmod(0o555)
    (refusal,) = single.run(run_dir, {0: obey_permissions})
    check_continues_from_six(single, refusal, run_dir)
    assert "Permission denied" in refusal.stderr
    (run_dir / "checkpoints").chmod(0o755)
    finished(single.run(run_dir))
    single.check_end(run_dir)


def test_training_goes_on_beside_a_disk_that_hangs_until_the_next_save_is_due(single: Reference, tmp_path: Path) -> None:
    """The file of step 3 hangs until step 6 is logged. It still contains step 3, and the save of step 6 waits for it."""
    run_dir, log, release = tmp_path / "run", tmp_path / "operations.jsonl", tmp_path / "release"
    hangs = Fault("slow", 1, NO_LIMIT, seconds=60, until=release, only="rank file", log=log)
    ranks = single.start(run_dir, {0: hangs}, checkpoint__keep_last=9)
    (running,) = ranks.running
    running.wait_until(lambda: (run_dir / "metrics.jsonl").exists() and len(curve_of(run_dir)) >= 6)
    time.sleep(3 * WAIT_SECONDS)
    assert read_operations(log)[-1].label == "open rank file in unfinished folder" and not events_of(run_dir, "save")
    assert len(curve_of(run_dir)) == 6, "training went past a save that is due"
    release.touch()
    finished(ranks.wait())
    waited = {event["step"]: event["wait_seconds"] for event in events_of(run_dir, "save")}
    assert list(waited) == [3, 6, 9, 12] and waited[3] > WAIT_SECONDS, waited
    check_not_mixed(log)
    single.check_end(run_dir, kept=[3, 6, 9, 12])


def test_saves_that_are_due_faster_than_the_disk_writes_wait_for_each_other(single: Reference, tmp_path: Path) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "operations.jsonl"
    slow = Fault("slow", 1, NO_LIMIT, seconds=5 * WAIT_SECONDS, only="fsync rank file", log=log)
    finished(start_run(single.prepared, run_dir, 1, {0: slow}, run__max_steps=4, run__save_steps=1).wait())
    saves = events_of(run_dir, "save")
    assert [event["step"] for event in saves] == [1, 2, 3, 4]
    assert min(event["wait_seconds"] for event in saves) > WAIT_SECONDS, saves
    check_not_mixed(log)
    single.check_checkpoints(run_dir)


def check_not_mixed(log: Path) -> None:
    """Check that the unfinished folders were written one after the other."""
    steps = [operation.path.split("/")[1] for operation in read_operations(log) if ".tmp" in operation.path and "step_" in operation.path]
    assert len(set(steps)) == 4 and steps == sorted(steps), steps
