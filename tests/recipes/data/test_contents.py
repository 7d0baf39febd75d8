"""The record of the contents of source files: sizes, beginnings and ends, but no names or times; and the count of changed files."""

import os
from pathlib import Path

import pytest

from recipes.data import contents
from recipes.data.contents import PART_BYTES, UNREAD, ContentChanges, compare_contents, digest, record_files
from recipes.errors import ConfigError


def write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def recorded(folder: Path, paths: list[Path]) -> Path:
    """A prepared folder with nothing but the record of these files."""
    folder.mkdir()
    record = record_files(folder, paths)
    assert record is not None
    (folder / "prepared.json").write_text(f'{{"sources": {{"root": "{record["root"]}", "sha256": "{record["sha256"]}"}}}}')
    return folder


@pytest.mark.parametrize("position", [0, PART_BYTES - 1, PART_BYTES, 3 * PART_BYTES, -1])
def test_a_byte_at_the_beginning_or_end_counts_and_one_in_the_middle_does_not(tmp_path: Path, position: int) -> None:
    content = bytearray(os.urandom(5 * PART_BYTES))
    (before,) = write(tmp_path / "a", {"x": bytes(content)})
    first = digest(before)
    content[position] ^= 1
    (after,) = write(tmp_path / "b", {"x": bytes(content)})
    assert (digest(after) == first) == (position in (PART_BYTES, 3 * PART_BYTES))


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES])
def test_every_byte_of_a_file_of_two_parts_counts_and_so_does_the_size(tmp_path: Path, size: int) -> None:
    (path,) = write(tmp_path / "a", {"x": bytes(size)})
    found = {digest(path), UNREAD}
    for position in {0, size // 2, size - 1} if size else ():
        found.add(digest(*write(tmp_path / "a", {"x": bytes(position) + b"1" + bytes(size - position - 1)})))
    assert digest(*write(tmp_path / "a", {"x": bytes(size + 1)})) not in found
    assert len(found) == 2 + len({0, size // 2, size - 1} if size else ())


def test_a_file_that_cannot_be_read_has_its_own_digest(tmp_path: Path) -> None:
    assert digest(tmp_path / "gone") == digest(tmp_path) == UNREAD


def test_changed_and_missing_files_are_named_and_new_times_do_not_count(tmp_path: Path) -> None:
    paths = write(tmp_path / "data", {"a": b"1", "b": b"2", "c": b"3", "d": b"4"})
    folder = recorded(tmp_path / "prepared", paths)
    os.utime(paths[0], (1, 1))
    paths[3].unlink()
    gone = (str(paths[3]),)
    assert compare_contents(folder) == ContentChanges((), 4, 4, missing=gone)
    paths[1].write_bytes(b"5")
    paths[2].write_bytes(b"33")
    changes = compare_contents(folder)
    assert changes == ContentChanges((str(paths[1]), str(paths[2])), 4, 4, missing=gone)
    assert str(changes) == f"2 of 4 files hold something else than when it was prepared, such as {paths[1]}, {paths[2]}"
    assert compare_contents(folder, {str(paths[1])}) == ContentChanges((str(paths[2]),), 4, 4, (str(paths[1]),), gone)


def test_of_many_files_only_a_random_sample_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_COMPARED", 3)
    paths = write(tmp_path / "data", {str(number): b"1" for number in range(9)})
    folder = recorded(tmp_path / "prepared", paths)
    for path in paths:
        path.write_bytes(b"2")
    results = [compare_contents(folder) for _ in range(40)]
    assert {(len(changes.changed), *changes[1:3]) for changes in results} == {(3, 3, 9)}
    assert len({changes.changed for changes in results}) > 3, "others each time"
    assert "3 of 3 files drawn from 9 hold something else" in str(results[0])


def test_a_folder_without_a_record_is_not_compared(tmp_path: Path) -> None:
    assert compare_contents(tmp_path) == ContentChanges()
    (tmp_path / "prepared.json").write_text('{"version": 1}')
    assert compare_contents(tmp_path) == ContentChanges()


def test_data_without_files_have_no_record(tmp_path: Path) -> None:
    assert record_files(tmp_path, []) is None and not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["contents.bin", "path_ends.bin", "paths.bin"])
@pytest.mark.parametrize("num_bytes", [None, 5, 16])
def test_a_damaged_record_is_one_line_with_the_way_out(tmp_path: Path, name: str, num_bytes: int | None) -> None:
    folder = recorded(tmp_path / "prepared", write(tmp_path / "data", {"a": b"1", "b": b"2", "c": b"3"}))
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if num_bytes is not None:
        (folder / name).write_bytes(content[:num_bytes])
    with pytest.raises(ConfigError, match=rf"{folder}: .*; remove the folder and prepare it again$") as caught:
        compare_contents(folder)
    assert "\n" not in str(caught.value)
