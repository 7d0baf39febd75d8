"""The file of embeddings: content of both formats, what is refused before anything is computed, and nothing half-written."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from recipes.data.items import ItemPlace
from recipes.errors import ConfigError
from recipes.interop import embedding_file
from recipes.interop.embedding_file import NO_ROW, Embedded, Embeddings, check_out, write_embeddings

PLACES = [ItemPlace("/a.txt line 3", "/a.txt", 3), ItemPlace("/b.wav", "/b.wav", None), ItemPlace("/c.wav", "/c.wav", None)]
ABOUT = {"source": "runs/a", "bad": [["/d.wav", "not audio"]]}


def made_up(is_pooled: bool) -> Embeddings:
    """Embeddings of three items, of which the second in the data was left out."""
    rng = np.random.default_rng(0)
    shapes = [(4,)] * 3 if is_pooled else [(2, 4), (1, 4), (5, 4)]
    vectors = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    return Embeddings([Embedded(number, place, one) for number, place, one in zip((0, 2, 3), PLACES, vectors, strict=True)], is_pooled)


@pytest.mark.parametrize("is_pooled", [True, False])
def test_a_parquet_has_the_places_the_vectors_and_the_description(is_pooled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_file, "ROWS_PER_GROUP", 2)  # several groups
    found = made_up(is_pooled)
    write_embeddings(tmp_path / "a.parquet", found, ABOUT)
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["index", "item", "path", "row", "embedding"]
    assert table.select(["index", "item", "path", "row"]).to_pylist()[1] == {"index": 2, "item": "/b.wav", "path": "/b.wav", "row": None}
    assert table["row"].to_pylist() == [3, None, None]
    for own, row in zip(table["embedding"].to_pylist(), found.rows, strict=True):
        assert np.array_equal(np.array(own, np.float32), row.vector)
    assert json.loads(table.schema.metadata[b"data2vec"]) == ABOUT
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("is_pooled", [True, False])
def test_an_npz_has_the_same_without_pickle(is_pooled: bool, tmp_path: Path) -> None:
    found = made_up(is_pooled)
    write_embeddings(tmp_path / "a.npz", found, ABOUT)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert stored["index"].tolist() == [0, 2, 3] and stored["row"].tolist() == [3, NO_ROW, NO_ROW]
        assert stored["item"].tolist() == [place.item for place in PLACES] and stored["path"][0] == "/a.txt"
        assert json.loads(str(stored["about"])) == ABOUT and stored["embeddings"].dtype == np.float32
        for number, row in enumerate(found.rows):
            part = number if is_pooled else slice(*stored["offsets"][number : number + 2])
            assert np.array_equal(stored["embeddings"][part], row.vector)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("a.csv", "unknown kind of file .csv; name it .parquet or .npz"),
        ("a", r"unknown kind of file \(no suffix\)"),
        ("there.npz", "exists already; name another file, or replace it with --force"),
        ("folder.npz", "is a folder; name a file in it, such as .*folder.npz/embeddings.parquet"),
        ("nowhere/a.npz", "there is no folder .*nowhere; make it"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(name: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "there.npz").touch()
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ConfigError, match=f"^--out .*{name}: {complaint}"):
        check_out(tmp_path / name, False)
    check_out(tmp_path / "there.npz", True)
    check_out(tmp_path / "new.parquet", False)


def test_after_a_failure_the_old_file_is_there_and_no_part_of_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(path: Path, found: Embeddings, about: str) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    (tmp_path / "a.npz").write_text("old")
    monkeypatch.setitem(embedding_file.WRITERS, ".npz", fill)
    with pytest.raises(ConfigError, match=r"a.npz: No space left on device; name a file that you may write, on a disk with room$"):
        write_embeddings(tmp_path / "a.npz", made_up(True), ABOUT)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
