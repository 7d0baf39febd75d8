"""The file of embeddings: parquet or npz, written whole or not at all, with a description of where the embeddings are from. Torch-free.

Shapes: N items, D channels, P positions of all items together.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from recipes.data.libraries import required
from recipes.errors import ConfigError
from recipes.system.durable import sync

if TYPE_CHECKING:
    import numpy as np

    from recipes.data.items import ItemPlace

ROWS_PER_GROUP = 1024
NO_ROW = -1
"""Number in the array `row` of an npz for an item that is no row."""


class Embedded(NamedTuple):
    """One item with its embedding."""

    number: int
    """Number of the item in the data, from 0."""
    place: "ItemPlace"
    vector: "np.ndarray"
    """float32 (D,), or (positions, D) if positions are not pooled."""


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of items, in the order of the data. Items that were left out are missing."""

    rows: list[Embedded]
    is_pooled: bool
    """True if there is one vector for each item."""

    @property
    def width(self) -> int:
        """The number D of channels."""
        return self.rows[0].vector.shape[-1]


def check_out(out: Path, is_forced: bool) -> None:
    """Check, before anything is computed, that the file `out` can be written. `is_forced`: a file that exists may be replaced. Raises:
    ConfigError if not."""
    if out.suffix not in WRITERS:
        raise ConfigError(f"--out {out}: unknown kind of file {out.suffix or '(no suffix)'}; name it {' or '.join(WRITERS)}")
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder; name a file in it, such as {out / 'embeddings.parquet'}")
    if (out.exists() or out.is_symlink()) and not is_forced:
        raise ConfigError(f"--out {out}: exists already; name another file, or replace it with --force")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; make it, or name a file in one that exists")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {out}: may not be written; name a file in a folder that you may write to")


def write_embeddings(out: Path, found: Embeddings, about: dict[str, Any]) -> None:
    """Write the embeddings to the file `out`, whose suffix decides the format, and sync it to the disk. After a failure there is no part of
    it. `about`: their description, stored as JSON.

    Raises: ConfigError if the file cannot be written.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")  # another command may write the same file
    try:
        WRITERS[out.suffix](temporary, found, json.dumps(about))
        sync(temporary)
        temporary.replace(out)
        sync(out.parent)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror or error}; name a file that you may write, on a disk with room") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write_parquet(path: Path, found: Embeddings, about: str) -> None:
    """Columns: index, item, path, row, embedding. Pooled embeddings have the type list of D floats, others list of lists."""
    arrow, parquet = required("pyarrow"), required("pyarrow.parquet")
    vector = arrow.list_(arrow.float32(), found.width)
    columns: Sequence[tuple[str, Any]] = (
        ("index", arrow.int64()),
        ("item", arrow.string()),
        ("path", arrow.string()),
        ("row", arrow.int64()),
        ("embedding", vector if found.is_pooled else arrow.list_(vector)),
    )
    schema = arrow.schema(columns, metadata={"data2vec": about})
    with open(path, "wb") as file, parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(found.rows), ROWS_PER_GROUP):
            rows = found.rows[start : start + ROWS_PER_GROUP]
            arrays = [
                arrow.array([row.number for row in rows], arrow.int64()),
                *(arrow.array([row.place[field] for row in rows], kind) for field, (_, kind) in enumerate(columns[1:4])),
                _arrow_vectors(arrow, [row.vector for row in rows], vector, found.is_pooled),
            ]
            writer.write_table(arrow.table(arrays, schema=schema))


def _arrow_vectors(arrow: Any, vectors: "list[np.ndarray]", vector: Any, is_pooled: bool) -> Any:
    import numpy as np

    values = arrow.array(np.concatenate([one.reshape(-1) for one in vectors]), arrow.float32())
    rows = arrow.FixedSizeListArray.from_arrays(values, type=vector)
    if is_pooled:
        return rows
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in vectors])])
    return arrow.ListArray.from_arrays(arrow.array(offsets, arrow.int32()), rows)


def _write_npz(path: Path, found: Embeddings, about: str) -> None:
    """Arrays: index, item, path, row (NO_ROW for none), about, embeddings (N, D). Without pooling, embeddings is (P, D), and offsets
    (N + 1,) has the first position of each item."""
    import numpy as np

    places, vectors = [row.place for row in found.rows], [row.vector for row in found.rows]
    rows = [NO_ROW if place.row is None else place.row for place in places]
    arrays: dict[str, Any] = {
        "index": np.array([row.number for row in found.rows], np.int64),
        "item": np.array([place.item for place in places], dtype=np.str_),
        "path": np.array([place.path for place in places], dtype=np.str_),
        "row": np.array(rows, np.int64),
        "about": np.array(about),
    }
    if found.is_pooled:
        arrays["embeddings"] = np.stack(vectors)
    else:
        arrays["embeddings"] = np.concatenate(vectors)
        arrays["offsets"] = np.concatenate([[0], np.cumsum([len(one) for one in vectors])]).astype(np.int64)
    with open(path, "wb") as file:
        np.savez(file, **arrays)


WRITERS: dict[str, Callable[[Path, Embeddings, str], None]] = {".parquet": _write_parquet, ".npz": _write_npz}
"""Suffix of the file -> function that writes it."""
