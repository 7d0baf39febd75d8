"""Training and held-out items: splits by file names, the cut by hashes of item numbers, and no file in both."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.data.audio import AUDIO, scan_audio
from recipes.data.media_folder import PreparedMedia, open_prepared, prepare_media
from recipes.data.packing import HELDOUT_SEED
from recipes.data_config import SpeechDataConfig
from tests.recipes.data.recordings import write_recordings


def prepare(data: SpeechDataConfig, out_dir: Path, **options: Any) -> Path:
    """Prepare with one process."""
    usual = {"scan": partial(scan_audio, sample_rate=16_000), "settings": {}, "num_processes": 1}
    return prepare_media(data, AUDIO, out_dir, **(usual | options))


def test_a_recording_that_is_listed_more_than_once_is_in_one_split(tmp_path: Path) -> None:
    write_recordings(tmp_path / "data", [500] * 5)
    clips = SpeechDataConfig()
    for share in (0.1, 0.3, 0.5, 0.9):
        (tmp_path / "list.csv").write_text("path\n" + "".join(f"data/00{number % 5}.wav\n" for number in range(40)))
        listed = replace(clips, path=str(tmp_path / "list.csv"), heldout_fraction=share)
        found = open_prepared(prepare(listed, tmp_path / f"out{share}"))
        train, valid = ({found.media.key(int(i)) for i in found.splits[split]} for split in ("train", "valid"))
        assert not train & valid and train | valid == {f"data/00{number}.wav" for number in range(5)}
        assert abs(found.counts["valid"] - 40 * share) <= 4, "the nearest boundary between files; each file has 8 rows"
    (tmp_path / "list.csv").write_text("path\n" + "data/000.wav\n" * 7)
    lines: list[str] = []
    assert open_prepared(prepare(listed, tmp_path / "same", log=lines.append)).counts["train"] == 7
    assert lines[0] == "nothing is held out: all 7 audio items are of one file"


def test_if_no_file_is_listed_twice_the_cut_depends_on_the_items_numbers_alone(tmp_path: Path) -> None:
    """As in all earlier releases, so that preparing the same data again holds out the same items."""
    for number in range(50):
        (tmp_path / f"{number:03}.wav").write_bytes(b"x")
    prepared = open_prepared(prepare(SpeechDataConfig(path=str(tmp_path), heldout_fraction=0.1), tmp_path / ".out", scan=None))
    by_hash = np.argsort(np.random.Generator(np.random.Philox(HELDOUT_SEED)).random(50), kind="stable")
    assert prepared.splits["valid"].tolist() == sorted(by_hash[:5].tolist())


def test_the_requested_split_is_prepared_and_the_log_line_says_what_is_left_out(tmp_path: Path) -> None:
    for name, lengths in (("train", [500, 600]), ("dev", [700]), ("test", [800])):
        write_recordings(tmp_path / "data" / name, lengths)
    for split, expected in ((None, [500, 600]), ("dev", [700]), ("all", [700, 800, 500, 600])):
        lines: list[str] = []
        data = SpeechDataConfig(path=str(tmp_path / "data"), split=split)
        found = open_prepared(prepare(data, tmp_path / f"out {split}", log=lines.append))
        assert found.lengths_N.tolist() == expected
        assert lines[0].startswith(f"{split or 'train'}: {len(expected)} file") and ("left out" in lines[0]) == (split != "all")


def prepare_segments(folder: Path, sizes: list[int], lines: list[str]) -> PreparedMedia:
    """Segments of 10 ms: sizes[i] of the i-th recording. 1 % of them is to be held out."""
    write_recordings(folder / "data", [160 * size for size in sizes])
    rows = [f"data/{file:03}.wav,{number / 100},0.01" for file, size in enumerate(sizes) for number in range(size)]
    (folder / "list.csv").write_text("\n".join(["path,start,duration", *rows]))
    data = SpeechDataConfig(path=str(folder / "list.csv"), heldout_fraction=0.01)
    return open_prepared(prepare(data, folder / "out", log=lines.append))


@pytest.mark.parametrize("large", range(4))
def test_a_file_with_most_of_the_segments_is_not_held_out(tmp_path: Path, large: int) -> None:
    lines: list[str] = []
    sizes = [1, 2, 1]
    sizes.insert(large, 91)
    found = prepare_segments(tmp_path, sizes, lines)
    assert 1 <= found.counts["valid"] <= 2 and "more than twice" not in "".join(lines)
    names = {split: {found.media.origin(int(i)) for i in items} for split, items in found.splits.items()}
    assert not names["train"] & names["valid"]


def test_if_every_file_is_too_large_the_smallest_is_held_out_and_a_line_says_so(tmp_path: Path) -> None:
    for number, sizes in enumerate(([30, 20, 40], [20, 40, 30], [40, 30, 20])):
        lines: list[str] = []
        assert prepare_segments(tmp_path / str(number), sizes, lines).counts["valid"] == 20
        expected = "warning: 20 items are held out, more than twice the share asked for: the items of one file stay together"
        assert lines[-2] == expected


def test_without_segments_the_cut_is_where_it_was_even_if_files_are_listed_often(tmp_path: Path) -> None:
    """The nearest boundary in the order of the hashes, as in all earlier releases."""
    sizes = [30, 2, 40, 3, 25]
    write_recordings(tmp_path / "data", [500] * len(sizes))
    rows = [f"data/{file:03}.wav" for file, size in enumerate(sizes) for _ in range(size)]
    (tmp_path / "list.csv").write_text("\n".join(["path", *rows]))
    found = open_prepared(prepare(SpeechDataConfig(path=str(tmp_path / "list.csv"), heldout_fraction=0.01), tmp_path / "out"))
    first = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
    by_hash = np.argsort(np.random.Generator(np.random.Philox(HELDOUT_SEED)).random(100)[first], kind="stable")
    file_size = sizes[int(np.searchsorted(np.cumsum(sizes), by_hash[0], side="right"))]
    assert found.splits["valid"].tolist() == sorted(by_hash[:file_size].tolist())
