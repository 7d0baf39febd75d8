"""The text front-end: published position numbers, zeros at padding, and the parameters that the teacher copies."""

import math

import pytest
import torch
import torch.nn.functional as F

from model.batch import Segments
from model.config import EncoderConfig
from model.dropout import DropoutStream
from model.frontends.config import TextFrontendConfig
from model.frontends.text import BOS, EOS, PAD, UNK, PositionTable, TextFrontend
from model.init import Init
from model.parallel import Parallel, init_parallel
from tests.distributed import run_distributed
from tests.model.reference import PLAIN, bools, plain, stir, text_frontend

IDS_BS = torch.tensor([[5, 6, 7, 8, 9], [10, PAD, 11, 12, PAD]])
PADDING_BS = IDS_BS == PAD


def build(parallel: Parallel, config: EncoderConfig = PLAIN, **changes: object) -> TextFrontend:
    frontend = text_frontend(**changes)(config, Init(1), parallel, DropoutStream())
    stir(frontend)
    assert isinstance(frontend, TextFrontend)
    return frontend


def numbered_table() -> PositionTable:
    """Return a table whose row i has the value i, so that an output shows which row was read."""
    table = PositionTable(10, 3, Init(1), 0.02)
    table.weight.data = torch.arange(12.0)[:, None].expand(12, 3).clone()
    return table


def test_special_symbols_have_the_published_ids() -> None:
    assert (BOS, PAD, EOS, UNK) == (0, 1, 2, 3)


def test_first_token_has_row_2_and_the_table_two_rows_more_than_positions() -> None:
    table = numbered_table()
    assert len(table.weight) == 10 + PAD + 1
    assert table(10, None)[:, 0].tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("row", "numbers"),
    [("00000", [2, 3, 4, 5, 6]), ("00011", [2, 3, 4, 1, 1]), ("11000", [1, 1, 2, 3, 4]), ("01010", [2, 1, 3, 1, 4]), ("11111", [1] * 5)],
)
def test_padding_is_skipped_by_a_cumulative_count(row: str, numbers: list[int]) -> None:
    assert numbered_table()(5, bools(row))[0, :, 0].tolist() == numbers


def test_positions_start_again_at_each_sample_of_a_row_and_padding_has_none() -> None:
    segments = Segments(torch.tensor([[0, 0, -1, 0, 1, 1, 2, -1]]), torch.tensor([[0, 1, 0, 2, 0, 1, 0, 0]]))
    assert numbered_table()(8, segments.segment_BS < 0, segments)[0, :, 0].tolist() == [2, 3, 1, 4, 2, 3, 2, 1]


def test_a_mask_without_padding_is_the_same_as_none() -> None:
    table = numbered_table()
    torch.testing.assert_close(table(5, bools("00000"))[0], table(5, None), atol=0, rtol=0)


def test_tokens_and_positions_are_drawn_with_the_embeddings_std_and_not_the_blocks(parallel: Parallel) -> None:
    config = TextFrontendConfig(vocab_size=500, max_positions=300, embedding_init_std=0.5)
    frontend = TextFrontend(config, PLAIN, Init(1), parallel, DropoutStream())
    assert PLAIN.init_std != config.embedding_init_std and frontend.positions is not None
    for weight in (frontend.tokens.weight[PAD + 1 : 500], frontend.positions.weight[PAD + 1 :]):
        assert float(weight.detach().std()) == pytest.approx(0.5, rel=0.05)


def test_pad_row_of_the_positions_gets_no_gradient() -> None:
    table = numbered_table()
    table(5, bools("00011")).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad[:, 0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("positions", ["absolute", "relative"])
def test_embedding_is_token_plus_position_normed_without_scaling(parallel: Parallel, positions: str) -> None:
    """A factor sqrt(d) on the tokens would change the result: the norm is over the sum of both."""
    frontend = build(parallel, positions=positions)
    x_BSD = frontend(IDS_BS, None, PADDING_BS).x_BSD
    sum_BSD = frontend.tokens.weight[IDS_BS]
    if frontend.positions is not None:
        rows_BS = torch.tensor([[2, 3, 4, 5, 6], [2, 1, 3, 4, 1]])
        sum_BSD = sum_BSD + frontend.positions.weight[rows_BS]
    expected_BSD = F.layer_norm(sum_BSD, (16,), frontend.norm.weight, frontend.norm.bias, 1e-5)
    torch.testing.assert_close(x_BSD[~PADDING_BS], expected_BSD[~PADDING_BS])
    if frontend.positions is not None:
        scaled_BSD = math.sqrt(16) * frontend.tokens.weight[IDS_BS] + frontend.positions.weight[rows_BS]
        scaled_BSD = F.layer_norm(scaled_BSD, (16,), frontend.norm.weight, frontend.norm.bias, 1e-5)
        assert not torch.allclose(x_BSD[~PADDING_BS], scaled_BSD[~PADDING_BS])


@pytest.mark.parametrize("positions", ["absolute", "relative"])
def test_padding_is_zeroed_after_the_norm(parallel: Parallel, positions: str) -> None:
    frontend = build(parallel, positions=positions)
    assert frontend.norm.bias.any(), "with the norm after the zeroing, padding would have its bias"
    x_BSD = frontend(IDS_BS, None, PADDING_BS).x_BSD
    assert not x_BSD[PADDING_BS].any()
    assert x_BSD[~PADDING_BS].any(dim=1).all()


def test_embedded_tokens_do_not_depend_on_the_padding_around_them(parallel: Parallel) -> None:
    frontend = build(parallel)
    x_BSD = frontend(IDS_BS, None, PADDING_BS).x_BSD
    short_BSD = frontend(IDS_BS[1:, [0, 2, 3]], None, None).x_BSD
    torch.testing.assert_close(x_BSD[1, [0, 2, 3]], short_BSD[0])


def test_dropout_acts_in_training_only(parallel: Parallel) -> None:
    frontend = build(parallel, plain(hidden_dropout=0.5))
    dropped = frontend(IDS_BS, None, None).x_BSD
    evaluated = frontend.eval()(IDS_BS, None, None).x_BSD
    assert 0.3 < float((dropped == 0).float().mean()) < 0.7
    torch.testing.assert_close(dropped[dropped != 0], 2 * evaluated[dropped != 0])
    assert frontend.dropout.site == 0 and not frontend.dropout.split


def test_mask_is_not_read_because_it_is_in_the_ids(parallel: Parallel) -> None:
    frontend = build(parallel)
    masked = frontend(IDS_BS, bools("11111", "00000"), None)
    torch.testing.assert_close(masked.x_BSD, frontend(IDS_BS, None, None).x_BSD, atol=0, rtol=0)


def test_absolute_positions_have_no_bias_and_relative_positions_have_only_a_bias(parallel: Parallel) -> None:
    absolute, relative = build(parallel), build(parallel, positions="relative")
    assert absolute.relative_bias is None and relative.positions is None
    assert absolute(IDS_BS, None, None).bias_LHSS is None
    bias_LHSS = relative(IDS_BS, None, PADDING_BS).bias_LHSS
    assert bias_LHSS.shape == (1, 4, 5, 5), "one bias for all blocks"
    torch.testing.assert_close(bias_LHSS[0], relative.relative_bias(5), atol=0, rtol=0)  # type: ignore[misc]


def test_shared_parameters_are_all_but_the_attention_bias(parallel: Parallel) -> None:
    absolute, relative = build(parallel), build(parallel, positions="relative")
    for shares in ("features", "frontend"):  # the embedding's norm is over tokens and positions together
        assert absolute.shared_parameters(shares) == {"tokens.weight", "positions.weight", "norm.weight", "norm.bias"}
        assert relative.shared_parameters(shares) == {"tokens.weight", "norm.weight", "norm.bias"}
        assert dict(relative.named_parameters()).keys() - relative.shared_parameters(shares) == {"relative_bias.weight"}
    assert absolute.shared_parameters("nothing") == set()


def test_there_are_no_features_to_share_and_no_prefix(parallel: Parallel) -> None:
    """Student and teacher read different ids, so that a teacher cannot take the student's embedding."""
    frontend = build(parallel)
    assert frontend(IDS_BS, None, PADDING_BS).features_BND is None and frontend.num_prefix_tokens == 0
    with pytest.raises(AssertionError):
        frontend(IDS_BS, None, PADDING_BS, torch.zeros(2, 5, 16))


@pytest.mark.parametrize(("vocab_size", "rows"), [(1, 128), (127, 128), (128, 128), (129, 256), (50265, 50304)])
def test_table_is_padded_to_a_multiple_of_128_rows_for_any_tp_size(vocab_size: int, rows: int) -> None:
    assert TextFrontendConfig(vocab_size).padded_vocab_size == rows


def embedded_under_tp() -> tuple[torch.Tensor, torch.Tensor]:
    whole, split = (text_frontend()(PLAIN, Init(1), init_parallel(size, "cpu"), DropoutStream()) for size in (1, 2))
    assert len(split.tokens.weight) == 64
    return whole(IDS_BS, None, PADDING_BS).x_BSD.detach(), split(IDS_BS, None, PADDING_BS).x_BSD.detach()


def test_a_split_table_gives_the_embeddings_of_the_whole_one() -> None:
    for whole_BSD, split_BSD in run_distributed(embedded_under_tp, 2):
        torch.testing.assert_close(split_BSD, whole_BSD, atol=1e-6, rtol=0)
