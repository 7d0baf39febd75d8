"""Dropout is a function of its counters: other random draws and recomputation do not change a mask."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.dropout import Dropout, DropoutStream, DropPath, is_dropped
from model.init import Init
from model.layers import Block
from model.parallel import Parallel
from tests.model.reference import plain, random_x

STREAM = DropoutStream(seed=5, dp_rank=1, tp_rank=0, update=7, micro_batch=2)


def mask(stream: DropoutStream = STREAM, site: int = 3, *, split: bool = False, prob: float = 0.5) -> Tensor:
    return Dropout(prob, stream, site, split=split)(torch.ones(1000)) != 0


def same_share(first: Tensor, second: Tensor) -> float:
    return float((first == second).float().mean())


def test_same_counters_give_the_same_mask() -> None:
    assert torch.equal(mask(), mask(replace(STREAM)))


@pytest.mark.parametrize("change", [{"seed": 6}, {"update": 8}, {"micro_batch": 3}, {"dp_rank": 0}, {"update": 2, "micro_batch": 7}])
def test_another_counter_gives_an_unrelated_mask(change: dict[str, int]) -> None:
    assert 0.4 < same_share(mask(), mask(replace(STREAM, **change))) < 0.6


def test_another_site_gives_an_unrelated_mask() -> None:
    assert 0.4 < same_share(mask(site=3), mask(site=4)) < 0.6


def test_replicated_activations_are_dropped_alike_on_all_tp_ranks() -> None:
    assert torch.equal(mask(), mask(replace(STREAM, tp_rank=1)))


def test_split_activations_are_dropped_differently_on_every_tp_rank() -> None:
    masks = [mask(replace(STREAM, tp_rank=rank), split=True) for rank in range(3)]
    shares = [same_share(masks[i], masks[j]) for i in range(3) for j in range(i)] + [same_share(mask(), masks[0])]
    assert all(0.4 < share < 0.6 for share in shares), shares


def test_a_mask_does_not_depend_on_what_was_drawn_before() -> None:
    expected = mask()
    for _ in range(3):
        torch.rand(17)
        mask(site=9)
        assert torch.equal(mask(), expected)
    torch.manual_seed(0)
    assert torch.equal(mask(), expected)


def test_counters_set_by_the_loop_reach_every_dropout() -> None:
    stream = replace(STREAM)
    dropout = Dropout(0.5, stream, 3)
    first = dropout(torch.ones(1000))
    stream.micro_batch += 1
    assert not torch.equal(dropout(torch.ones(1000)), first)


def test_share_and_scale_are_those_of_dropout() -> None:
    x = torch.full((100_000,), 3.0)
    out = Dropout(0.25, STREAM, 3)(x)
    assert float((out == 0).float().mean()) == pytest.approx(0.25, abs=0.007)
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 3.0 / 0.75))


@pytest.mark.parametrize("prob", [0.0, 0.5])
def test_eval_mode_is_the_identity_and_draws_nothing(prob: float) -> None:
    dropout = Dropout(prob, STREAM, 3).eval()
    state = torch.get_rng_state()
    x = torch.randn(5, generator=torch.Generator().manual_seed(0))
    assert dropout(x) is x and dropout.prob_now == 0.0
    assert torch.equal(torch.get_rng_state(), state)


def path(stream: DropoutStream = STREAM, prob: float = 0.25, B: int = 4000) -> Tensor:
    """Return the factor (B,) of each sample for a branch of ones."""
    out_SBD = DropPath(prob, stream, 3)(torch.ones(2, B, 3))
    assert (out_SBD == out_SBD[:1, :, :1]).all(), "one draw for the whole sample"
    return out_SBD[0, :, 0]


def test_drop_path_drops_whole_samples_and_keeps_the_expectation() -> None:
    factors = path()
    assert set(factors.tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    assert float(factors.mean()) == pytest.approx(1.0, abs=5 * (0.25 / 0.75 / 4000) ** 0.5)


def test_drop_path_is_the_same_on_every_tp_rank_and_another_on_every_dp_rank() -> None:
    assert torch.equal(path(), path(replace(STREAM, tp_rank=1)))
    assert not torch.equal(path(), path(replace(STREAM, dp_rank=0)))
    assert not torch.equal(path(), path(replace(STREAM, update=8))) and not torch.equal(path(), path(replace(STREAM, micro_batch=3)))


@pytest.mark.parametrize(("prob", "training"), [(0.0, True), (0.5, False)])
def test_drop_path_that_drops_nothing_is_the_identity_and_draws_nothing(prob: float, training: bool) -> None:
    x_SBD, state = torch.ones(2, 3, 4), torch.get_rng_state()
    assert DropPath(prob, STREAM, 3).train(training)(x_SBD) is x_SBD
    assert torch.equal(torch.get_rng_state(), state)


def dropped(stream: DropoutStream, prob: float = 0.3) -> list[bool]:
    return [is_dropped(stream, prob, index) for index in range(200)]


@pytest.mark.parametrize("counters", [{"dp_rank": 0}, {"dp_rank": 7}, {"tp_rank": 1}, {"dp_rank": 3, "tp_rank": 2}])
def test_every_rank_drops_the_same_layers(counters: dict[str, int]) -> None:
    assert dropped(STREAM) == dropped(replace(STREAM, **counters))


@pytest.mark.parametrize("change", [{"seed": 6}, {"update": 8}, {"micro_batch": 3}])
def test_another_update_micro_batch_or_seed_drops_other_layers(change: dict[str, int]) -> None:
    same = sum(a == b for a, b in zip(dropped(STREAM), dropped(replace(STREAM, **change)), strict=True))
    assert 80 < same < 150, "0.58 of 200 if they are unrelated"


def test_layers_are_dropped_with_the_given_probability() -> None:
    draws = [is_dropped(replace(STREAM, update=update), 0.05, index) for update in range(1000) for index in range(12)]
    assert sum(draws) / len(draws) == pytest.approx(0.05, abs=5 * (0.05 * 0.95 / 12_000) ** 0.5)
    assert not any(dropped(STREAM, 0.0)) and all(dropped(STREAM, 1.0))


def test_a_block_dropped_at_one_probability_is_dropped_at_every_larger_one() -> None:
    assert all(more or not less for less, more in zip(dropped(STREAM, 0.2), dropped(STREAM, 0.6), strict=True))


def gradients(parallel: Parallel, *, recompute: bool, **checkpoint_options: Any) -> list[Tensor]:
    config = plain(hidden_dropout=0.1, attention_dropout=0.1, activation_dropout=0.1, drop_path=0.3)
    stream = DropoutStream(seed=1, update=4)
    blocks = [Block(config, Init(1).at(i), parallel, stream, i) for i in range(2)]
    x_SBD = random_x(5, 3).requires_grad_()
    y_SBD = x_SBD
    for block in blocks:
        y_SBD = checkpoint(block, y_SBD, None, use_reentrant=False, **checkpoint_options)[1] if recompute else block(y_SBD, None)[1]
    y_SBD.square().sum().backward()
    return [x_SBD.grad, *(p.grad for block in blocks for p in block.parameters())]  # type: ignore[list-item]


@pytest.mark.parametrize("preserve_rng_state", [False, True])
def test_recomputed_activations_give_bit_identical_gradients(parallel: Parallel, preserve_rng_state: bool) -> None:
    plain_gradients = gradients(parallel, recompute=False)
    again = gradients(parallel, recompute=True, preserve_rng_state=preserve_rng_state)
    assert len(plain_gradients) == 25
    for first, second in zip(plain_gradients, again, strict=True):
        assert first.any()
        torch.testing.assert_close(second, first, atol=0, rtol=0)
