"""launch/pretrain_speech.py, tests of speech only: bad recordings, settings of crops and groups, and worker processes."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.launching import PRETRAIN, contents, launch, overrides, read_jsonl, refused, start, write_files
from tests.made_up import write_tones

PRETRAIN_SPEECH = PRETRAIN["speech"]
NO_AUDIO = b"this is no audio, but a text that was given its name\n" * 20
BAD_DATA: dict[str, tuple[dict[str, bytes], list[str], str]] = {
    "empty folder": ({"raw/.hidden": b"x"}, ["--data", "raw"], r"raw: no audio in it, found nothing"),
    "text": ({"raw/a.txt": b"words"}, ["--data", "raw"], r"raw: no audio in it, found 1 \.txt; known are folders of .*\.wav"),
    "one file": ({"a.wav": NO_AUDIO}, ["--data", "a.wav"], r"a\.wav: one single audio file; point --data at its folder"),
    "no audio in the files": (
        {f"raw/{number}.wav": NO_AUDIO for number in range(12)},
        ["--data", "raw"],
        r"12 of 12 items cannot be read, more than data\.max_bad_fraction 0\.01 allows \(3\): .*/raw/0\.wav \(.*\).* and 2 more; fix",
    ),
    "list": ({"list.csv": b"id,sound\n1,a.wav\n"}, ["--data", "list.csv"], r"list\.csv: no column .*id, sound.*--set data\.column="),
    "lengths": ({}, ["--set", "data.max_seconds=0.01"], r"data\.max_seconds 0\.01 is less than data\.min_seconds 0\.025"),
    "groups": (
        {},
        ["--set", "data.group_size=3"],
        r"8 is not a multiple of data\.group_size 3; use --set data\.group_size=1",
    ),
    "convolutions": ({}, ["--set", "frontend.conv_kernels=10,3,3"], r"conv_kernels has 3 values, frontend\.conv_strides 2; one each"),
    "positions": ({}, ["--set", "frontend.pos_conv_groups=3"], r"hidden_size 16 is not a multiple of frontend\.pos_conv_groups 3"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_are_one_line_and_leave_nothing(case: str, tmp_path: Path) -> None:
    files, args, complaint = BAD_DATA[case]
    before = write_files(tmp_path, files)
    refused(launch(PRETRAIN_SPEECH, [*overrides("speech"), *args], tmp_path), complaint)
    assert contents(tmp_path) == before


def test_too_short_recordings_are_refused_with_their_number(tmp_path: Path) -> None:
    write_tones(tmp_path / "raw", 5)
    args = ["--data", "raw", *overrides("speech", data__min_seconds=1, data__max_seconds=2)]
    refused(launch(PRETRAIN_SPEECH, args, tmp_path), r"none of 5 items can be used \(5 are shorter than 16000 samples")
    assert not (tmp_path / "runs" / "speech_tiny" / "prepared").exists()


def test_too_few_recordings_that_are_long_enough_are_refused_with_the_setting_that_left_the_others_out(tmp_path: Path) -> None:
    write_tones(tmp_path / "raw")
    args = ["--data", "raw", *overrides("speech", data__min_seconds=0.125, data__max_seconds=0.2)]
    complaint = (
        r"fewer than one batch of 8 \(\d\d are left out as shorter than data\.min_seconds 0\.125\); change that, use more data or --set"
    )
    refused(launch(PRETRAIN_SPEECH, args, tmp_path), complaint)


def test_masks_that_would_cover_a_whole_recording_are_refused(tmp_path: Path) -> None:
    write_tones(tmp_path / "raw", 12)
    args = ["--data", "raw", *overrides("speech", mask__length=60)]
    refused(launch(PRETRAIN_SPEECH, args, tmp_path), r"may cover whole; --set data\.min_seconds=")


def test_a_recording_that_breaks_after_preparing_is_an_event_and_training_goes_on(tmp_path: Path) -> None:
    """Another recording replaces it. Each bad recording gives one event, even if it is drawn again."""
    raw = write_tones(tmp_path / "raw")

    def train(data: str, run_dir: str, max_steps: int, max_bad_fraction: float) -> subprocess.CompletedProcess[str]:
        changes = {"run__max_steps": max_steps, "data__max_bad_fraction": max_bad_fraction}
        return launch(PRETRAIN_SPEECH, ["--data", data, "--run-dir", run_dir, *overrides("speech", **changes)], tmp_path)

    assert train("raw", "run", 1, 0.0).returncode == 0
    (raw / "007.wav").write_bytes(NO_AUDIO)
    (raw / "024.wav").unlink()
    done = train("run/prepared", "again", 12, 0.1)
    assert (done.returncode, done.stderr) == (0, "")
    bad = [event for event in read_jsonl(tmp_path / "again" / "events.jsonl") if event["event"] == "bad_item"]
    assert sorted(Path(event["where"]).name for event in bad) == ["007.wav", "024.wav"]
    assert {event["reason"] for event in bad if event["where"].endswith("024.wav")} == {"No such file or directory"}
    assert len(read_jsonl(tmp_path / "again" / "metrics.jsonl")) == 12
    for number in range(8, 12):
        (raw / f"{number:03}.wav").unlink()
    too_many = train("run/prepared", "strict", 12, 0.01)
    refused(too_many, r"of \d+ items cannot be decoded, more than data\.max_bad_fraction 0\.01 allows \(3\): .*\.wav \(.*fix or remove")


@pytest.mark.slow
def test_workers_change_no_number_and_a_stop_request_to_the_whole_group_saves(tmp_path: Path) -> None:
    """A terminal's Ctrl-C or a pre-emption also signals the workers, which must not end the run."""
    raw = write_tones(tmp_path / "raw", 40)
    numbers = {"run__max_steps": 60, "run__save_steps": 100, "run__eval_steps": 60}
    plain = launch(PRETRAIN_SPEECH, ["--data", raw, "--run-dir", "plain", *overrides("speech", **numbers)], tmp_path)
    assert (plain.returncode, plain.stderr) == (0, "")
    args = ["--data", raw, "--run-dir", "run", *overrides("speech", **numbers, data__num_workers=2)]
    running = start(PRETRAIN_SPEECH, args, tmp_path)
    running.wait_until(lambda: (tmp_path / "run" / "metrics.jsonl").exists() and len(read_jsonl(tmp_path / "run" / "metrics.jsonl")) > 3)
    os.killpg(running.process.pid or 0, signal.SIGTERM)
    stopped = running.wait(60)
    assert (stopped.returncode, stopped.stderr) == (75, "")
    resumed = launch(PRETRAIN_SPEECH, args, tmp_path, timeout=120)
    assert (resumed.returncode, resumed.stderr) == (0, "")
    losses = [[row["loss"] for row in read_jsonl(tmp_path / name / "metrics.jsonl")] for name in ("plain", "run")]
    assert losses[0] == losses[1] and len(losses[0]) == 60
