"""Features of a batch: pooling by hand, batches joined to one, and which examples share a batch."""

from typing import Any

import torch

from recipes.interop.features import Features, batches_of, joined


def made_up(num_items: int, length: int, padded: list[int], prefix: int = 1) -> Features:
    """Features of three layers with random numbers. `padded`: number of positions at the end of each item that are padding."""
    hidden = [torch.randn(num_items, prefix + length, 5) for _ in range(3)]
    padding_BN = torch.arange(length) >= torch.tensor([length - count for count in padded])[:, None]
    return Features(hidden, padding_BN, prefix, "CLS")


def test_pooling_is_that_by_hand_and_leaves_out_padding_and_prefix_tokens() -> None:
    found = made_up(2, 4, [0, 3])
    layer = found.hidden_BSD[2]
    expected = torch.stack([layer[0, 1:].mean(0), layer[1, 1]])
    torch.testing.assert_close(found.pooled(), expected)
    torch.testing.assert_close(found.pooled(2, "mean"), expected)
    torch.testing.assert_close(found.pooled("mean", "cls"), (found.hidden_BSD[1] + found.hidden_BSD[2])[:, 0] / 2)
    first, second = found.pooled(0, "none")
    assert torch.equal(first, found.hidden_BSD[0][0, 1:]) and torch.equal(second, found.hidden_BSD[0][1, 1:2])
    assert torch.equal(found.last, layer[:, 1:]) and len(found.layers) == 3 and found.num_layers == 2


def test_joined_batches_have_the_items_in_their_order_and_pool_alike() -> None:
    short, long = made_up(2, 3, [0, 1]), made_up(1, 6, [2])
    whole = joined([([0, 2], short), ([1], long)])
    assert whole.last.shape == (3, 6, 5) and whole.padding_mask_BN.sum(1).tolist() == [3, 2, 4]
    for pool in ("mean", "cls"):
        one, two, three = whole.pooled(1, pool)
        torch.testing.assert_close(torch.stack([one, three]), short.pooled(1, pool))
        torch.testing.assert_close(two[None], long.pooled(1, pool))


class Lengths:
    """A maker whose examples are their lengths."""

    def __init__(self, pads: bool) -> None:
        self.pads = pads

    def length(self, example: Any) -> int:
        return example


def test_batches_are_of_similar_length_or_of_equal_length_if_padding_is_not_exact() -> None:
    lengths = [5, 3, 5, 9, 3, 3]
    assert list(batches_of(lengths, Lengths(True), 4)) == [[1, 4, 5, 0], [2, 3]]  # type: ignore[arg-type]
    assert list(batches_of(lengths, Lengths(False), 2)) == [[1, 4], [5], [0, 2], [3]]  # type: ignore[arg-type]
    assert list(batches_of([], Lengths(True), 2)) == []  # type: ignore[arg-type]


def test_pooled_vectors_do_not_keep_the_outputs_at_all_positions_in_memory() -> None:
    found = made_up(2, 400, [0, 0])
    for pool in ("mean", "cls"):
        vectors_BD = found.pooled("last", pool)
        assert isinstance(vectors_BD, torch.Tensor) and vectors_BD.untyped_storage().nbytes() == 2 * 5 * 4
