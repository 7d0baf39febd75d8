"""The heads of supervised tasks: their layers, dropout, initial values, and the mean over positions."""

from typing import Any

import pytest
import torch

from model.config import EncoderConfig, HeadConfig
from model.dropout import Draws, Dropout, DropoutStream
from model.init import Init
from model.parallel import Parallel
from model.task_heads import HEAD_SITE, TaskHead, mean_over_positions
from model.trunk import Trunk
from tests.model.reference import PLAIN, bools, described, names_and_shapes, plain, random_x, stir, text_frontend

D, OUTPUTS = PLAIN.hidden_size, 5


def build(encoder: EncoderConfig = PLAIN, seed: int = 1, stream: DropoutStream | None = None, **settings: Any) -> TaskHead:
    return TaskHead(HeadConfig(**settings), encoder, OUTPUTS, Init(seed), stream or DropoutStream())


@pytest.mark.parametrize(
    ("settings", "shapes"),
    [
        ({"hidden": "none"}, [(OUTPUTS, D)]),
        ({"hidden": "tanh"}, [(D, D), (OUTPUTS, D)]),
        ({"hidden": "linear", "hidden_size": 7, "norm": True}, [(7, D), (OUTPUTS, 7)]),
    ],
)
def test_layers_have_the_widths_of_the_settings_and_their_number_of_parameters(
    settings: dict[str, Any], shapes: list[tuple[int, int]]
) -> None:
    head = build(**settings)
    assert [tuple(layer.weight.shape) for layer in head.layers] == shapes
    assert described(head) == names_and_shapes(HeadConfig(**settings).parameters(D, OUTPUTS))


@pytest.mark.parametrize("hidden", ["none", "linear", "tanh"])
@pytest.mark.parametrize("norm", [False, True])
def test_the_outputs_follow_the_formula_within_1e_5(norm: bool, hidden: str) -> None:
    head = build(plain(layernorm_epsilon=0.5), norm=norm, hidden=hidden)
    stir(head)
    x_BSD = expected = random_x(2, 3)
    if norm:
        variance = x_BSD.var(-1, keepdim=True, unbiased=False)
        expected = (x_BSD - x_BSD.mean(-1, keepdim=True)) / (variance + 0.5).sqrt() * head.norm.weight + head.norm.bias
    *before, last = head.layers
    for layer in before:
        expected = expected @ layer.weight.T + layer.bias
        expected = torch.tanh(expected) if hidden == "tanh" else expected
    torch.testing.assert_close(head(x_BSD), expected @ last.weight.T + last.bias, atol=1e-5, rtol=0)


def test_initial_matrices_are_normal_with_the_heads_std_and_biases_are_0() -> None:
    head = TaskHead(HeadConfig(init_std=0.3), plain(hidden_size=96), 50, Init(1), DropoutStream())
    for layer in head.layers:
        assert float(layer.weight.std()) == pytest.approx(0.3, rel=0.05) and float(layer.weight.abs().max()) > 0.75
        assert not layer.bias.any()
    assert not torch.allclose(head.layers[0].weight[:50], head.layers[1].weight, atol=0.1)
    assert not torch.equal(build(seed=2).layers[1].weight, build(seed=1).layers[1].weight)


def test_dropout_acts_before_each_layer_in_training_only() -> None:
    stream = DropoutStream(seed=3)
    head, x_BSD = build(dropout=0.5, stream=stream, hidden="linear"), random_x(4, 1)
    stir(head)
    first, second = head.layers

    def dropped(x: torch.Tensor, site: int) -> torch.Tensor:
        return 2 * x * Draws(stream.key(site, split=False), 0.5).keep(torch.empty_like(x))

    torch.testing.assert_close(head(x_BSD), second(dropped(first(dropped(x_BSD, HEAD_SITE)), HEAD_SITE + 1)))
    torch.testing.assert_close(head.eval()(x_BSD), second(first(x_BSD)))
    assert not any(dropout.split for dropout in head.dropouts), "tensor-parallel ranks drop the same channels"


def test_no_place_of_dropout_in_trunk_and_head_has_the_number_of_another_one(parallel: Parallel) -> None:
    trunk = Trunk(plain(num_layers=200), text_frontend(), Init(1), parallel, DropoutStream())
    modules = [*trunk.modules(), *build().modules()]
    sites = [module.site for module in modules if isinstance(module, Dropout)]
    assert len(sites) == len(set(sites)) == 1 + 200 * 6 + 2


def test_the_mean_is_over_positions_that_are_not_padding() -> None:
    x_BND, padding_BN = random_x(3, 4), bools("0011", "0000", "1111")
    x_BND[0, 3] = torch.nan
    mean_BD = mean_over_positions(x_BND, padding_BN)
    torch.testing.assert_close(mean_BD, torch.stack([x_BND[0, :2].mean(0), x_BND[1].mean(0), torch.zeros(D)]))
    torch.testing.assert_close(mean_over_positions(x_BND[1:], None), x_BND[1:].mean(1))


def test_the_mean_has_the_dtype_of_its_input() -> None:
    assert mean_over_positions(random_x(1, 2).bfloat16(), bools("01")).dtype == torch.bfloat16


def test_parts_that_the_output_does_not_depend_on_are_named() -> None:
    assert HeadConfig(norm=True).unread_parts(plain(normalize_before=True)) == ("trunk.encoder.final_norm.",)
    assert HeadConfig(norm=True).unread_parts(PLAIN) == HeadConfig().unread_parts(plain(normalize_before=True)) == ()
