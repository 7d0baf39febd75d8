"""One block compared with plain torch, and the attention mask: padding may be anywhere in a row."""

from typing import Any

import pytest
import torch

from model.dropout import DropoutStream
from model.init import Init
from model.layers import Block, attention_mask
from model.parallel import Parallel
from tests.model.reference import PLAIN, bools, plain, random_x, reference_block, stir


def build_block(parallel: Parallel, index: int = 0, **changes: Any) -> Block:
    block = Block(plain(**changes), Init(3), parallel, DropoutStream(), index)
    stir(block)
    return block


@pytest.mark.parametrize(
    "changes", [{}, {"activation": "relu"}, {"layer_scale": 0.1}, {"key_bias": False}, {"layer_scale": 2.0, "key_bias": False}]
)
@pytest.mark.parametrize("normalize_before", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_block_equals_plain_torch(parallel: Parallel, changes: dict[str, Any], normalize_before: bool, with_bias: bool) -> None:
    block = build_block(parallel, normalize_before=normalize_before, **changes)
    x_BSD = random_x(3, 6)
    padding_BS = bools("000000", "110000", "001011")
    bias_HSS = random_x(4, 6, seed=1, D=6) if with_bias else None
    output = block(x_BSD.transpose(0, 1), attention_mask(padding_BS, bias_HSS))
    config = plain(normalize_before=normalize_before, **changes)
    ffn_BSD, out_BSD = reference_block(dict(block.named_parameters()), x_BSD, config, padding_BS, bias_HSS)
    torch.testing.assert_close(output.ffn_SBD.transpose(0, 1), ffn_BSD, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.block_SBD.transpose(0, 1), out_BSD, atol=1e-5, rtol=1e-5)


def test_layernorm_epsilon_is_the_configured_one(parallel: Parallel) -> None:
    block = build_block(parallel, layernorm_epsilon=0.5)
    x_BSD = random_x(1, 4)
    _, out_BSD = reference_block(dict(block.named_parameters()), x_BSD, plain(layernorm_epsilon=0.5))
    torch.testing.assert_close(block(x_BSD.transpose(0, 1), None).block_SBD.transpose(0, 1), out_BSD, atol=1e-5, rtol=1e-5)


def test_ffn_feature_is_taken_before_dropout_and_residual(parallel: Parallel) -> None:
    """Only the dropout after the second FFN matrix is active: it changes the block's output and not the feature."""
    block = build_block(parallel, hidden_dropout=0.5)
    block.attention_dropout.prob = 0.0
    x_SBD = random_x(2, 5).transpose(0, 1)
    trained, evaluated = block(x_SBD, None), block.eval()(x_SBD, None)
    torch.testing.assert_close(trained.ffn_SBD, evaluated.ffn_SBD, atol=0, rtol=0)
    assert not torch.allclose(trained.block_SBD, evaluated.block_SBD)


SPLIT_DROPOUTS = ("attention.prob_dropout", "ffn.activation_dropout")
WHOLE_DROPOUTS = ("attention_dropout", "ffn_dropout", "attention_path.dropout", "ffn_path.dropout")


@pytest.mark.parametrize("name", [*SPLIT_DROPOUTS, *WHOLE_DROPOUTS])
def test_every_dropout_of_a_block_acts(parallel: Parallel, name: str) -> None:
    block = build_block(parallel)
    x_SBD = random_x(2, 5).transpose(0, 1)
    before = block(x_SBD, None).block_SBD
    block.get_submodule(name).prob = 0.5
    assert not torch.allclose(block(x_SBD, None).block_SBD, before)


def test_dropout_sites_differ_within_and_between_blocks(parallel: Parallel) -> None:
    blocks = [Block(PLAIN, Init(3), parallel, DropoutStream(), index) for index in range(3)]
    sites = [module.site for block in blocks for module in block.modules() if hasattr(module, "site")]
    assert len(sites) == len(set(sites)) == 18
    assert 0 not in sites, "0 is the front-end's"


def test_only_dropouts_of_split_tensors_draw_per_rank(parallel: Parallel) -> None:
    split = {name: module.split for name, module in build_block(parallel).named_modules() if hasattr(module, "split")}
    assert split == dict.fromkeys(SPLIT_DROPOUTS, True) | dict.fromkeys(WHOLE_DROPOUTS, False)


@pytest.mark.parametrize("normalize_before", [False, True])
def test_ffn_feature_is_taken_after_the_layer_scale(parallel: Parallel, normalize_before: bool) -> None:
    block = build_block(parallel, layer_scale=0.1, normalize_before=normalize_before)
    seen = []
    block.ffn.register_forward_hook(lambda module, inputs, output: seen.append(output))
    output = block(random_x(2, 5).transpose(0, 1), None)
    torch.testing.assert_close(output.ffn_SBD, seen[0] * block.ffn_scale.weight, atol=0, rtol=0)


def test_both_branches_have_the_initial_layer_scale_of_the_settings_or_none(parallel: Parallel) -> None:
    block = Block(plain(layer_scale=1e-4), Init(3), parallel, DropoutStream(), 0)
    for scale in (block.attention_scale, block.ffn_scale):
        assert scale.weight.shape == (16,) and (scale.weight == 1e-4).all() and scale.weight.requires_grad
    plain_block = Block(plain(), Init(3), parallel, DropoutStream(), 0)
    assert not [name for name, _ in plain_block.named_parameters() if "scale" in name]


def test_without_key_bias_queries_and_values_have_a_bias_that_is_0_initially(parallel: Parallel) -> None:
    attention = Block(plain(key_bias=False), Init(3), parallel, DropoutStream(), 0).attention
    assert {name for name, _ in attention.named_parameters()} == {"qkv.weight", "query_value_bias.weight", "proj.weight", "proj.bias"}
    assert attention.query_value_bias is not None and attention.query_value_bias.weight.shape == (4, 2, 4)
    assert not attention.query_value_bias.weight.any()


@pytest.mark.parametrize("key_bias", [False, True])
def test_only_the_key_part_of_the_projection_is_without_bias(parallel: Parallel, key_bias: bool) -> None:
    """With x = 0 the fused projection is its bias."""
    attention, seen = build_block(parallel, key_bias=key_bias).attention, []
    (attention.qkv if key_bias else attention.query_value_bias).register_forward_hook(lambda module, inputs, out: seen.append(out))
    attention(torch.zeros(1, 1, 16), None)
    qkv_H3K = (seen[0][0] if key_bias else seen[0]).view(4, 3, 4)
    assert qkv_H3K[:, 0].all() and qkv_H3K[:, 2].all() and bool(qkv_H3K[:, 1].any()) == key_bias


@pytest.mark.parametrize("num_layers", [1, 2, 5])
def test_drop_path_grows_from_0_in_the_first_block_to_the_setting_in_the_last(parallel: Parallel, num_layers: int) -> None:
    blocks = [build_block(parallel, index, num_layers=num_layers, drop_path=0.2) for index in range(num_layers)]
    probs = [(block.attention_path.dropout.prob, block.ffn_path.dropout.prob) for block in blocks]
    assert [ffn for _, ffn in probs] == pytest.approx([0.2 * i / max(1, num_layers - 1) for i in range(num_layers)])
    assert probs[0] == (0.0, 0.0) and all(attention == ffn for attention, ffn in probs)


def test_a_dropped_path_leaves_the_sample_and_the_kept_ones_scaled_up(parallel: Parallel) -> None:
    """Pre-LN without the attention branch: out - x is the FFN branch of each sample, 0 or doubled."""
    block = build_block(parallel, 1, num_layers=2, normalize_before=True, drop_path=0.5)
    x_SBD = random_x(40, 3).transpose(0, 1)
    block.attention_path.dropout.prob = 0.0
    trained, evaluated = block(x_SBD, None), block.eval()(x_SBD, None)
    torch.testing.assert_close(trained.ffn_SBD, evaluated.ffn_SBD, atol=0, rtol=0)
    branch_SBD = trained.block_SBD - (evaluated.block_SBD - evaluated.ffn_SBD)
    dropped_B = (branch_SBD.abs() < 1e-5).all(dim=2).all(dim=0)
    assert 8 < int(dropped_B.sum()) < 32
    torch.testing.assert_close(branch_SBD[:, ~dropped_B], 2 * evaluated.ffn_SBD[:, ~dropped_B], atol=1e-5, rtol=1e-5)


def test_attention_mask_is_none_without_padding_and_bias() -> None:
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
def test_the_samples_of_a_row_attend_within_themselves_and_so_does_padding(with_bias: bool) -> None:
    bias_HSS = random_x(2, 4, D=4) if with_bias else None
    segment_BS = torch.tensor([[0, 0, 1, -1], [0, -1, -1, 0]], dtype=torch.int32)
    mask = attention_mask(segment_BS < 0, bias_HSS, segment_BS)
    assert mask is not None and mask.shape == ((2, 2, 4, 4) if with_bias else (2, 1, 4, 4))
    expected_BSS = torch.stack([bools("1100", "1100", "0010", "0001"), bools("1001", "0110", "0110", "1001")])
    kept = mask[:, 0] if bias_HSS is None else mask.isfinite().all(1)
    assert torch.equal(kept, expected_BSS)
    if bias_HSS is not None:
        assert torch.equal(mask.nan_to_num(neginf=0), bias_HSS * expected_BSS[:, None])


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_row_that_is_all_padding_attends_everywhere(with_bias: bool) -> None:
    bias_HSS = random_x(2, 3, D=3) if with_bias else None
    mask = attention_mask(bools("111", "110"), bias_HSS)
    assert mask is not None
    if bias_HSS is None:
        assert mask[0].all() and mask[1].sum() == 1
    else:
        torch.testing.assert_close(mask[0], bias_HSS, atol=0, rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("length", [192, 320, 512])
def test_gradients_of_padded_rows_are_finite_on_cuda(parallel: Parallel, length: int) -> None:
    """cuDNN's backward gives NaN with a mask and S % 128 = 64 (pytorch issue 196678)."""
    attention = Block(plain(hidden_size=256, num_attention_heads=4), Init(3), parallel, DropoutStream(), 0).attention.to(
        "cuda", torch.bfloat16
    )
    x_SBD = torch.randn(length, 4, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    padding_BS = torch.arange(length, device="cuda") >= torch.tensor([length, length - 1, length // 2, 1], device="cuda").unsqueeze(1)
    attention(x_SBD, attention_mask(padding_BS, None)).square().sum().backward()
    gradients = [x_SBD.grad, *(parameter.grad for parameter in attention.parameters())]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
