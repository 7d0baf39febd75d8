"""launch/pretrain_vision.py, tests of vision only: bad pictures, and settings of patches and views."""

from pathlib import Path

import pytest

from tests.launching import PRETRAIN, contents, launch, overrides, read_jsonl, refused, write_files
from tests.made_up import write_pictures

PRETRAIN_VISION = PRETRAIN["vision"]
NO_IMAGE = b"this is no picture, but a text that was given its name\n" * 20
BAD_DATA: dict[str, tuple[dict[str, bytes], list[str], str]] = {
    "empty folder": ({"raw/.hidden": b"x"}, ["--data", "raw"], r"raw: no image in it, found nothing"),
    "recordings": ({"raw/a.wav": b"RIFF"}, ["--data", "raw"], r"raw: no image in it, found 1 \.wav; known are folders of .*\.jpg"),
    "one file": ({"a.png": NO_IMAGE}, ["--data", "a.png"], r"a\.png: one single image file; point --data at its folder"),
    "patches": (
        {},
        ["--set", "frontend.image_size=36"],
        r"image_size 36 is not 2 or more whole patches of .* 8; use --set",
    ),
    "all masked": (
        {},
        ["--set", "mask.num_patches=16"],
        r"16 of 16 patches leaves none to see; use --set mask\.num_patches=9",
    ),
    "crop": ({}, ["--set", "data.crop_scale=0,1"], r"data\.crop_scale is \(0\.0, 1\.0\); each must be above 0 and at most 1"),
    "jitter": ({}, ["--set", "data.color_jitter=-1"], r"data\.color_jitter is -1\.0; it must lie between 0 and 1"),
    "group": ({}, ["--set", "data.group_size=4"], r"vision_tiny has no such key"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_are_one_line_and_leave_nothing(case: str, tmp_path: Path) -> None:
    files, args, complaint = BAD_DATA[case]
    before = write_files(tmp_path, files)
    refused(launch(PRETRAIN_VISION, [*overrides("vision"), *args], tmp_path), complaint)
    assert contents(tmp_path) == before


def test_a_damaged_picture_is_an_event_and_training_goes_on(tmp_path: Path) -> None:
    """Preparing decodes no picture. In training another picture replaces a bad one, which gives one event, even if it is drawn again."""
    raw = write_pictures(tmp_path / "raw")
    (raw / "007.png").write_bytes(NO_IMAGE)
    (raw / "024.png").write_bytes((raw / "022.png").read_bytes()[:200])
    args = ["--data", "raw", "--run-dir", "run", *overrides("vision", data__max_bad_fraction=0.1, run__max_steps=12)]
    done = launch(PRETRAIN_VISION, args, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    bad = [event for event in read_jsonl(tmp_path / "run" / "events.jsonl") if event["event"] == "bad_item"]
    assert sorted(Path(event["where"]).name for event in bad) == ["007.png", "024.png"] and all(event["reason"] for event in bad)
    assert len(read_jsonl(tmp_path / "run" / "metrics.jsonl")) == 12


def test_too_many_damaged_pictures_end_the_run_naming_the_first_ten(tmp_path: Path) -> None:
    write_pictures(tmp_path / "raw", 4)
    write_files(tmp_path, {f"raw/bad{number:03}.png": NO_IMAGE for number in range(36)})
    done = launch(PRETRAIN_VISION, ["--data", "raw", *overrides("vision")], tmp_path)
    refused(
        done,
        r"\d+ of 38 items cannot be decoded, more than data\.max_bad_fraction 0\.01 allows \(3\): .* and \d+ more; fix or remove them",
    )
    assert done.stderr.count(".png (not an image of a known kind") == 10
