"""One block against plain torch, and the attention mask: padding may stand anywhere in a row."""

import pytest
import torch

from model.dropout import DropoutStream
from model.init import Init
from model.layers import Block, attention_mask
from model.parallel import Parallel
from tests.model.reference import PLAIN, bools, plain, random_x, reference_block, stir


def build_block(parallel: Parallel, **changes: object) -> Block:
    block = Block(plain(**changes), Init(3), parallel, DropoutStream(), 0)
    stir(block)
    return block


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("normalize_before", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_block_equals_plain_torch(parallel: Parallel, activation: str, normalize_before: bool, with_bias: bool) -> None:
    block = build_block(parallel, activation=activation, normalize_before=normalize_before)
    x_BSD = random_x(3, 6)
    padding_BS = bools("000000", "110000", "001011")
    bias_HSS = random_x(4, 6, seed=1, D=6) if with_bias else None
    output = block(x_BSD.transpose(0, 1), attention_mask(padding_BS, bias_HSS))
    config = plain(activation=activation, normalize_before=normalize_before)
    ffn_BSD, out_BSD = reference_block(dict(block.named_parameters()), x_BSD, config, padding_BS, bias_HSS)
    torch.testing.assert_close(output.ffn_SBD.transpose(0, 1), ffn_BSD, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.block_SBD.transpose(0, 1), out_BSD, atol=1e-5, rtol=1e-5)


def test_layernorm_epsilon_is_the_configured_one(parallel: Parallel) -> None:
    block = build_block(parallel, layernorm_epsilon=0.5)
    x_BSD = random_x(1, 4)
    _, out_BSD = reference_block(dict(block.named_parameters()), x_BSD, plain(layernorm_epsilon=0.5))
    torch.testing.assert_close(block(x_BSD.transpose(0, 1), None).block_SBD.transpose(0, 1), out_BSD, atol=1e-5, rtol=1e-5)


def test_ffn_feature_is_taken_before_dropout_and_residual(parallel: Parallel) -> None:
    """The only dropout that acts is the one behind the second FFN matrix: the feature is not touched, the block's output is."""
    block = build_block(parallel, hidden_dropout=0.5)
    block.attention_dropout.prob = 0.0
    x_SBD = random_x(2, 5).transpose(0, 1)
    trained, evaluated = block(x_SBD, None), block.eval()(x_SBD, None)
    torch.testing.assert_close(trained.ffn_SBD, evaluated.ffn_SBD, atol=0, rtol=0)
    assert not torch.allclose(trained.block_SBD, evaluated.block_SBD)


@pytest.mark.parametrize("name", ["attention.prob_dropout", "attention_dropout", "ffn.activation_dropout", "ffn_dropout"])
def test_every_dropout_of_a_block_acts(parallel: Parallel, name: str) -> None:
    block = build_block(parallel)
    x_SBD = random_x(2, 5).transpose(0, 1)
    before = block(x_SBD, None).block_SBD
    block.get_submodule(name).prob = 0.5
    assert not torch.allclose(block(x_SBD, None).block_SBD, before)


def test_dropout_sites_differ_within_and_between_blocks(parallel: Parallel) -> None:
    blocks = [Block(PLAIN, Init(3), parallel, DropoutStream(), index) for index in range(3)]
    sites = [module.site for block in blocks for module in block.modules() if hasattr(module, "site")]
    assert len(sites) == len(set(sites)) == 12
    assert 0 not in sites, "0 is the front-end's"


def test_only_dropouts_of_split_tensors_draw_per_rank(parallel: Parallel) -> None:
    split = {name: module.split for name, module in build_block(parallel).named_modules() if hasattr(module, "split")}
    expected = {"attention.prob_dropout": True, "attention_dropout": False, "ffn.activation_dropout": True, "ffn_dropout": False}
    assert split == expected


def test_attention_mask_is_none_where_nothing_is_hidden() -> None:
    assert attention_mask(None, None) is None


def test_attention_mask_of_padding_keeps_the_real_keys() -> None:
    mask = attention_mask(bools("0110", "0000"), None)
    assert mask is not None and mask.shape == (2, 1, 1, 4)
    assert mask[:, 0, 0].tolist() == [[True, False, False, True], [True] * 4]


def test_attention_mask_adds_the_bias_at_real_keys_only() -> None:
    bias_HSS = random_x(2, 3, D=3)
    mask = attention_mask(bools("010"), bias_HSS)
    assert mask is not None and mask.shape == (1, 2, 3, 3)
    assert torch.isneginf(mask[0, :, :, 1]).all()
    torch.testing.assert_close(mask[0, :, :, [0, 2]], bias_HSS[:, :, [0, 2]], atol=0, rtol=0)


@pytest.mark.parametrize("with_bias", [False, True])
def test_attention_mask_opens_a_row_that_is_all_padding(with_bias: bool) -> None:
    bias_HSS = random_x(2, 3, D=3) if with_bias else None
    mask = attention_mask(bools("111", "110"), bias_HSS)
    assert mask is not None
    if bias_HSS is None:
        assert mask[0].all() and mask[1].sum() == 1
    else:
        torch.testing.assert_close(mask[0], bias_HSS, atol=0, rtol=0)
