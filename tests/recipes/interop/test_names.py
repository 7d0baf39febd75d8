"""Tables of names: conversions are exactly invertible, and a table refuses unknown names."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recipes.errors import ConfigError
from recipes.interop.names import (
    Entry,
    NameTable,
    head_by_head,
    padded_rows,
    query_value_bias,
    same,
    transposed,
    unread,
    vector,
    without_prefix,
)

quickly = settings(max_examples=40, deadline=None)
QKV = ("q.{leaf}", "k.{leaf}", "v.{leaf}")


def numbers(*shape: int) -> Tensor:
    return torch.arange(float(torch.Size(shape).numel())).view(shape)


def there_and_back(entry: Entry, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert to ours and return the result. Asserts that the way back gives theirs bit for bit."""
    table = NameTable([entry])
    ours = table.to_ours(state)
    back = table.to_theirs(ours, state)
    assert list(back) == list(state)
    for name, tensor in state.items():
        torch.testing.assert_close(back[name], tensor, atol=0, rtol=0, msg=name)
    return ours


@quickly
@given(heads=st.integers(1, 4), width=st.integers(1, 5), columns=st.integers(1, 6))
def test_separate_and_fused_projections_give_the_same_and_come_back(heads: int, width: int, columns: int) -> None:
    fused = numbers(3 * heads * width, columns)
    separate = dict(zip(("q.weight", "k.weight", "v.weight"), fused.chunk(3), strict=True))
    ours = there_and_back(head_by_head(("qkv.weight",), "a", heads), {"qkv.weight": fused})["a"]
    torch.testing.assert_close(ours, there_and_back(head_by_head(QKV, "a", heads), separate)["a"], atol=0, rtol=0)
    for head in range(heads):
        for part in range(3):
            first = (3 * head + part) * width
            theirs = part * heads * width + head * width
            torch.testing.assert_close(ours[first : first + width], fused[theirs : theirs + width], atol=0, rtol=0)


@quickly
@given(heads=st.integers(1, 4), width=st.integers(1, 5))
def test_biases_of_queries_and_values_are_stored_per_head(heads: int, width: int) -> None:
    query, value = numbers(heads * width), -numbers(heads * width)
    ours = there_and_back(query_value_bias("q", "v", "a", heads), {"q": query, "v": value})["a"]
    assert tuple(ours.shape) == (heads, 2, width)
    torch.testing.assert_close(ours[-1], torch.stack([query[-width:], value[-width:]]), atol=0, rtol=0)


@quickly
@given(rows=st.integers(1, 9), extra=st.integers(0, 9))
def test_a_table_is_padded_with_zero_rows(rows: int, extra: int) -> None:
    ours = there_and_back(padded_rows("t", "a", rows, rows + extra), {"t": numbers(rows, 3) + 1})["a"]
    assert len(ours) == rows + extra and not ours[rows:].any()


def test_vectors_lose_their_leading_dimensions_and_tables_are_transposed() -> None:
    assert tuple(there_and_back(vector("v", "a"), {"v": numbers(1, 1, 5)})["a"].shape) == (5,)
    assert tuple(there_and_back(transposed("t", "a"), {"t": numbers(7, 2)})["a"].shape) == (2, 7)


def test_placeholders_in_names_are_filled_in() -> None:
    table = NameTable([same("blocks.{n}.fc.{leaf}", "layers.{n}.fc1.{leaf}")])
    assert table.our_name("blocks.11.fc.bias") == "layers.11.fc1.bias"


@pytest.mark.parametrize(
    "name", ["blocksx11.fc.bias", "blocks.1.fc.scale", "blocks.x.fc.bias", "a.blocks.1.fc.bias", "blocks.1.fc.bias_scale"]
)
def test_a_dot_matches_only_a_dot_and_a_name_matches_as_a_whole(name: str) -> None:
    with pytest.raises(ConfigError, match="has no place in this model"):
        NameTable([same("blocks.{n}.fc.{leaf}", "layers.{n}.fc1.{leaf}")]).our_name(name)


def test_the_first_entry_that_matches_is_used() -> None:
    table = NameTable([same("norm.weight", "own"), same("norm.{leaf}", "common.{leaf}")])
    assert (table.our_name("norm.weight"), table.our_name("norm.bias")) == ("own", "common.bias")


def test_two_names_of_one_tensor_are_both_converted() -> None:
    table = NameTable([same("old", "a"), same("new", "a")])
    assert table.to_ours({"new": numbers(2)}).keys() == table.to_ours({"old": numbers(2)}).keys() == {"a"}
    assert table.to_theirs({"a": numbers(2)}, ["new"]).keys() == {"new"}


def test_a_prefix_is_put_before_the_requested_names() -> None:
    back = NameTable([same("encoder.x", "a")]).to_theirs({"a": numbers(2)}, ["x"], prefix="encoder.")
    assert list(back) == ["x"]


def test_tensors_that_nothing_reads_are_left_out_both_ways() -> None:
    table = NameTable([same("x", "a"), *unread("index.{n}", "head.{leaf}")])
    state = {"x": numbers(2), "index.3": numbers(2), "head.weight": numbers(2)}
    assert table.to_ours(state).keys() == {"a"}
    assert table.to_theirs({"a": numbers(2)}, state).keys() == {"x"} and table.our_name("head.weight") is None


def test_an_unknown_tensor_is_refused_by_name() -> None:
    table = NameTable([same("x", "a")])
    with pytest.raises(ConfigError, match="tensor z has no place"):
        table.to_ours({"x": numbers(1), "z": numbers(1)})
    with pytest.raises(ConfigError, match=r"tensor p\.x has no place"):
        table.to_theirs({"a": numbers(1)}, ["x"], prefix="p.")


def test_a_missing_part_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"q\.bias stands without k\.bias and v\.bias"):
        NameTable([head_by_head(QKV, "a.{leaf}", 2)]).to_ours({"q.bias": numbers(4)})


def test_the_trunk_of_a_task_model_is_the_tensors_with_the_prefix() -> None:
    state = {"d.x": numbers(1), "head.weight": numbers(2)}
    assert without_prefix(state, "d.").keys() == {"x"} and without_prefix({"x": numbers(1)}, "d.").keys() == {"x"}


def test_a_table_inside_a_larger_one_has_its_names_with_a_prefix_and_outer_entries_come_first() -> None:
    table = NameTable([same("a.{leaf}", "x.{leaf}"), same("b.bias", "y.bias")]).inside("big.", [same("big.b.bias", "head.bias")])
    assert [table.our_name(name) for name in ("big.a.weight", "big.b.bias")] == ["x.weight", "head.bias"]
    with pytest.raises(ConfigError, match=r"tensor a\.weight has no place"):
        table.our_name("a.weight")
