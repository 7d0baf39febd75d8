"""The prepared folder: complete or absent, read back as it was written, and damage that is noticed."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from recipes.data.shards import (
    ShardWriter,
    find_prepared,
    hash_files,
    load_prepared,
    map_array,
    note_on_short,
)
from recipes.errors import ConfigError, DataMismatch


def copy_folder(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_boundaries_are_those_of_the_appended_paragraphs_without_empty_ones(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, np.dtype(np.uint16))
    writer.append(np.array([0, 0, 1]), np.array([2, 0, 3]), np.arange(5))
    writer.append(np.array([1, 2, 4]), np.array([1, 0, 2]), np.arange(3))
    writer.append(np.array([4]), np.array([0]), np.arange(0))
    writer.append(np.array([7]), np.array([1]), np.arange(1))  # a batch that starts with a new document
    writer.finish()
    assert writer.counts == {"documents": 4, "paragraphs": 5, "tokens": 9}
    assert map_array(tmp_path / "tokens.bin", np.uint16).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0]
    assert map_array(tmp_path / "paragraph_ends.bin", np.int64).tolist() == [2, 5, 6, 8, 9]
    assert map_array(tmp_path / "document_ends.bin", np.int64).tolist() == [2, 6, 8, 9]


def test_a_damaged_or_foreign_folder_is_refused(tmp_path: Path, prepared: Path) -> None:
    cut = copy_folder(prepared, tmp_path / "cut")
    (cut / "tokens.bin").write_bytes((cut / "tokens.bin").read_bytes()[:-2])
    with pytest.raises(ConfigError, match=r"cut: tokens\.bin damaged or missing; remove the folder"):
        load_prepared(cut)
    missing = copy_folder(prepared, tmp_path / "missing")
    (missing / "train.npy").unlink()
    with pytest.raises(ConfigError, match=r"train\.npy damaged or missing"):
        load_prepared(missing)
    newer = copy_folder(prepared, tmp_path / "newer")
    (newer / "prepared.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(ConfigError, match="prepared format 99, this version reads 1"):
        load_prepared(newer)
    (newer / "prepared.json").write_text('{"version": 1')
    with pytest.raises(ConfigError, match="not readable as prepared data"):
        load_prepared(newer)


def test_hashes_depend_on_contents_and_order(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text(path.name)
    assert hash_files(paths) != hash_files(paths[::-1])
    assert hash_files(paths[:1]) == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    paths[0].write_bytes(bytes(5 << 20) + b"the end")
    assert hash_files(paths) == hashlib.sha256(bytes(5 << 20) + b"the end" + b"b").hexdigest()


def test_a_prepared_folder_that_data_names_has_priority_over_an_earlier_one_and_each_is_checked(tmp_path: Path) -> None:
    calls: list[tuple[str, Path]] = []

    def find(path: Path | None, out_dir: Path) -> Path | None:
        calls.clear()
        checks = {name: lambda folder, name=name: calls.append((name, folder)) for name in ("check_fits", "check_same_source")}
        return find_prepared(path and str(path), out_dir, **checks)  # type: ignore[arg-type]

    given, earlier, new = tmp_path / "given", tmp_path / "earlier", tmp_path / "new"
    for folder in (given, earlier):
        folder.mkdir()
        (folder / "prepared.json").write_text("{}")
    assert find(given, earlier) == given and calls == [("check_fits", given)]
    assert find(tmp_path, earlier) == find(None, earlier) == earlier
    assert calls == [("check_same_source", earlier), ("check_fits", earlier)]
    assert find(tmp_path, new) is None and not calls


def test_a_folder_that_was_prepared_for_another_modality_is_reported_as_such(tmp_path: Path) -> None:
    (tmp_path / "prepared.json").write_text('{"version": 1, "kind": "image"}')
    with pytest.raises(DataMismatch, match="prepared from image data, not from text; point --data at text or choose another place"):
        load_prepared(tmp_path)


def test_items_that_were_left_out_as_too_short_are_counted_with_their_setting(tmp_path: Path) -> None:
    for counts, note in ({}, ""), ({"short": 0}, ""), ({"short": 9}, "9 are left out as shorter than data.min_seconds 0.5"):
        (tmp_path / "prepared.json").write_text(json.dumps({"counts": counts, "settings": {"data.min_seconds": 0.5}}))
        assert note_on_short(tmp_path) == note
