"""One rank's part of the items: contiguous, in order, with bad items left out and cut ones counted, for any batch size."""

from pathlib import Path

import pytest
import torch

from model.parallel import having_a_world
from recipes.data.items import ItemPlace, Items
from recipes.interop import load_encoder
from recipes.interop.embedding import bounds_of, embed_part
from recipes.interop.encoder import TrainedEncoder
from tests.recipes.interop.hf_copies import copy_golden

TEXTS = [*("ba " * (number % 7 + 1) for number in range(20)), " ", "do " * 100]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TrainedEncoder:
    torch.set_num_threads(1)  # as in tests of model/: several threads for tiny tensors wait for each other on a busy machine
    return load_encoder(copy_golden("text", tmp_path_factory.mktemp("hf") / "text"))


def items_of(encoder: TrainedEncoder, texts: list[str]) -> Items:
    return Items("texts", "", len(texts), lambda n: ItemPlace(f"text {n}", "texts", n), lambda n: encoder.maker.make(texts[n]))


def test_the_parts_of_all_ranks_are_contiguous_and_complete() -> None:
    for num_items in (0, 1, 5, 9):
        bounds = [bounds_of(num_items, rank, 4) for rank in range(4)]
        assert [first for first, _ in bounds[1:]] == [last for _, last in bounds[:-1]] and (bounds[0][0], bounds[-1][1]) == (0, num_items)
        assert max(last - first for first, last in bounds) - min(last - first for first, last in bounds) <= 1


@pytest.mark.parametrize(("size", "batch_size"), [(1, 1), (3, 2), (30, 4)])
def test_ranks_and_batch_size_do_not_matter_within_1e_5_and_bad_items_are_left_out(
    encoder: TrainedEncoder, size: int, batch_size: int
) -> None:
    items = items_of(encoder, TEXTS)
    options = {"layer": "mean", "pool": "mean", "log": lambda line: None}
    with having_a_world():
        parts = [embed_part(encoder, items, rank, size, batch_size=batch_size, **options) for rank in range(size)]  # type: ignore[arg-type]
    rows = [row for part in parts for row in part.rows]
    assert [row.number for row in rows] == [*range(20), 21] and rows[-1].place.item == "text 21"
    assert [item for part in parts for item in part.bad] == [("text 20", "no tokens in it", None)]
    assert sum(part.num_cut for part in parts) == 1, "the model takes 64 tokens"
    expected = encoder.embed([TEXTS[row.number] for row in rows], layer="mean", batch_size=1)
    torch.testing.assert_close(torch.stack([torch.from_numpy(row.vector) for row in rows]), expected, atol=1e-5, rtol=0)


def test_progress_and_figures_count_bad_items_too(encoder: TrainedEncoder, tmp_path: Path) -> None:
    part = embed_part(encoder, items_of(encoder, ["ba", " "]), 0, 1, layer=1, pool="cls", batch_size=8, log=print)
    assert part.figures.startswith("embedded 2 of 2 items in ") and "peak memory" in part.figures
