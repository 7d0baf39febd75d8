"""The encoder compared with plain torch, padding anywhere in a row, and tensor parallelism that changes no result."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.dropout import DropoutStream, is_dropped
from model.encoder import Encoder
from model.init import Init
from model.parallel import Parallel, init_parallel
from tests.distributed import run_distributed
from tests.model.reference import bools, build_student, make_batch, plain, random_x, reference_encoder, stir


def build_encoder(parallel: Parallel, stream: DropoutStream | None = None, **changes: Any) -> Encoder:
    encoder = Encoder(plain(**changes), Init(3), parallel, stream or DropoutStream())
    stir(encoder)
    return encoder


BEIT = {"normalize_before": True, "layer_scale": 0.3, "key_bias": False, "layernorm_epsilon": 1e-6}
"""Settings that only vision's blocks have, final norm included."""


def random_bias(num_tables: int, S: int = 6) -> Tensor | None:
    """(L, H, S, S), or None for no table."""
    return torch.stack([random_x(4, S, seed=1 + i, D=S) for i in range(num_tables)]) if num_tables else None


@pytest.mark.parametrize("block", [{}, {"normalize_before": True}, {"layer_scale": 0.3}, BEIT], ids=["post-LN", "pre-LN", "scaled", "BEiT"])
@pytest.mark.parametrize("num_tables", [0, 1, 3])
def test_encoder_equals_plain_torch_in_every_layer(parallel: Parallel, block: dict[str, Any], num_tables: int) -> None:
    encoder = build_encoder(parallel, num_layers=3, **block)
    x_BSD, padding_BS = random_x(3, 6), bools("000000", "100001", "000111")
    bias_LHSS = random_bias(num_tables)
    out_BSD, kept = encoder(x_BSD, padding_BS, bias_LHSS, keep_from=0)
    config = plain(num_layers=3, **block)
    expected_BSD, layers = reference_encoder(dict(encoder.named_parameters()), x_BSD, config, padding_BS, bias_LHSS)
    torch.testing.assert_close(out_BSD, expected_BSD, atol=2e-5, rtol=1e-5)
    assert len(kept) == len(layers) == 3
    for output, (ffn_BSD, block_BSD) in zip(kept, layers, strict=True):
        torch.testing.assert_close(output.ffn_SBD.transpose(0, 1), ffn_BSD, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(output.block_SBD.transpose(0, 1), block_BSD, atol=2e-5, rtol=1e-5)


def test_equal_biases_for_each_block_give_the_result_of_one_shared_bias(parallel: Parallel) -> None:
    encoder, shared_LHSS = build_encoder(parallel, num_layers=3), random_bias(1)
    assert shared_LHSS is not None
    shared_BSD, _ = encoder(random_x(2, 6), None, shared_LHSS, keep_from=3)
    each_BSD, _ = encoder(random_x(2, 6), None, shared_LHSS.expand(3, -1, -1, -1), keep_from=3)
    torch.testing.assert_close(each_BSD, shared_BSD, atol=0, rtol=0)
    other_BSD, _ = encoder(random_x(2, 6), None, torch.cat([shared_LHSS.expand(2, -1, -1, -1), 0 * shared_LHSS]), keep_from=3)
    assert not torch.allclose(other_BSD, shared_BSD), "the last block reads the last table"


@pytest.mark.parametrize("keep_from", [0, 1, 3])
def test_blocks_from_keep_from_on_are_kept(parallel: Parallel, keep_from: int) -> None:
    encoder = build_encoder(parallel, num_layers=3)
    _, everything = encoder(random_x(2, 4), None, None, keep_from=0)
    _, kept = encoder(random_x(2, 4), None, None, keep_from=keep_from)
    assert len(kept) == 3 - keep_from
    for output, expected in zip(kept, everything[keep_from:], strict=True):
        torch.testing.assert_close(output, expected, atol=0, rtol=0)


@pytest.mark.parametrize("normalize_before", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("row", ["000011", "110000", "001100", "101010"])
def test_values_at_padding_do_not_change_real_positions(parallel: Parallel, normalize_before: bool, with_bias: bool, row: str) -> None:
    encoder = build_encoder(parallel, normalize_before=normalize_before)
    bias_LHSS = random_x(4, 6, seed=1, D=6)[None] if with_bias else None
    padding_BS = bools(row, "000000")
    x_BSD = random_x(2, 6)
    other_BSD = torch.where(padding_BS[..., None], 100 * random_x(2, 6, seed=2), x_BSD)
    out_BSD, _ = encoder(x_BSD, padding_BS, bias_LHSS, keep_from=2)
    same_BSD, _ = encoder(other_BSD, padding_BS, bias_LHSS, keep_from=2)
    torch.testing.assert_close(out_BSD[~padding_BS], same_BSD[~padding_BS], atol=1e-6, rtol=0)


@pytest.mark.parametrize("row", ["000011", "110000", "001100"])
def test_padded_keys_have_no_effect(parallel: Parallel, row: str) -> None:
    """Without a bias, a row with padding inside gives the same as this row without its padding."""
    encoder = build_encoder(parallel)
    padding_BS, x_BSD = bools(row), random_x(1, 6)
    out_BSD, _ = encoder(x_BSD, padding_BS, None, keep_from=2)
    short_BSD, _ = encoder(x_BSD[~padding_BS][None], None, None, keep_from=2)
    torch.testing.assert_close(out_BSD[~padding_BS], short_BSD[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_row_that_is_all_padding_gives_no_nan_in_forward_and_backward(parallel: Parallel, with_bias: bool) -> None:
    encoder = build_encoder(parallel)
    bias_LHSS = random_x(4, 4, D=4)[None].requires_grad_() if with_bias else None
    out_BSD, _ = encoder(random_x(2, 4), bools("1111", "0011"), bias_LHSS, keep_from=2)
    out_BSD.square().sum().backward()
    assert out_BSD.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert bias_LHSS is None or (bias_LHSS.grad is not None and bias_LHSS.grad.isfinite().all())


def test_bias_in_float32_is_added_in_the_dtype_of_the_activations(parallel: Parallel) -> None:
    encoder = build_encoder(parallel).bfloat16()
    out_BSD, _ = encoder(random_x(2, 4).bfloat16(), bools("0000", "0011"), random_x(4, 4, D=4)[None], keep_from=2)
    assert out_BSD.dtype == torch.bfloat16 and out_BSD.isfinite().all()


def gathered(parameter: nn.Parameter, tensor: Tensor, parallel: Parallel) -> Tensor:
    """Return the whole of a tensor that is split like `parameter`."""
    if not getattr(parameter, "tensor_model_parallel", False):
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(parallel.tp_size)]
    dist.all_gather(parts, tensor.contiguous(), group=parallel.tp_group)
    return torch.cat(parts, dim=parameter.partition_dim)


def tp_differences(changes: dict[str, Any], positions: str) -> dict[str, float]:
    """Return the largest difference between TP 1 and TP 2 of prediction and gradients, relative to the largest entry."""
    one, two = init_parallel(1, "cpu"), init_parallel(2, "cpu")
    config = plain(num_attention_heads=2 if positions == "relative" else 4, **changes)
    whole, split = (build_student(p, config, positions=positions) for p in (one, two))
    stir(whole)
    whole.trunk.encoder.stream.dp_rank = two.dp_rank  # the same samples drop their paths
    theirs = dict(whole.named_parameters())
    for name, parameter in split.named_parameters():
        full = theirs[name].data
        if getattr(parameter, "tensor_model_parallel", False):
            full = full.chunk(2, dim=parameter.partition_dim)[two.tp_rank]
        parameter.data.copy_(full)
    clean_BS = torch.arange(24).view(3, 8) % 15 + 4
    batch = make_batch(clean_BS, bools("01100100", "00000011", "01100010"), bools("00000000", "11100000", "00011000"))
    outputs = [student(batch).prediction_MD for student in (whole, split)]
    for output in outputs:
        (output * random_x(1, len(output))[0]).sum().backward()
    found = {"prediction": float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max())}
    for name, parameter in split.named_parameters():
        assert parameter.grad is not None and theirs[name].grad is not None, name
        difference = gathered(parameter, parameter.grad, two) - theirs[name].grad
        found[name] = float(difference.abs().max() / theirs[name].grad.abs().max())
    return found


@pytest.mark.parametrize(
    ("changes", "positions"),
    [
        ({}, "absolute"),
        ({"normalize_before": True, "activation": "relu"}, "relative"),
        (BEIT | {"drop_path": 0.5}, "relative"),
    ],
    ids=["post-LN", "pre-LN", "BEiT"],
)
def test_tp_2_equals_tp_1_in_prediction_and_gradients_within_1e_5(changes: dict[str, Any], positions: str) -> None:
    for found in run_distributed(tp_differences, 2, changes, positions):
        assert len(found) > 25
        assert not {name: value for name, value in found.items() if not value < 1e-5}


def outputs_under_dropout() -> tuple[Tensor, Tensor]:
    parallel = init_parallel(2, "cpu")
    student = build_student(parallel, plain(hidden_dropout=0.3, attention_dropout=0.3, activation_dropout=0.3, drop_path=0.4))
    batch = make_batch(torch.arange(16).view(2, 8) % 15 + 4, bools("01100100", "00000011"))
    return student(batch).prediction_MD.detach(), student.trunk.encoder.layers[0].attention.qkv.weight.detach()


def test_ranks_of_a_tp_group_agree_on_the_output_under_dropout() -> None:
    (first, slice_0), (second, slice_1) = run_distributed(outputs_under_dropout, 2)
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    assert not torch.equal(slice_0, slice_1), "the ranks hold different heads"


def drop_in_turn(num_layers: int, prob: float) -> tuple[DropoutStream, list[bool]]:
    """Return a stream at an update that drops some blocks and keeps others, and which it drops."""
    for update in range(100):
        stream = DropoutStream(seed=1, update=update)
        drops = [is_dropped(stream, prob, number) for number in range(num_layers)]
        if any(drops[:-1]) and not all(drops):
            return stream, drops
    raise AssertionError("no such update")


@pytest.mark.parametrize("normalize_before", [False, True])
def test_a_dropped_block_passes_its_input_on_and_gets_a_gradient_of_exactly_0(parallel: Parallel, normalize_before: bool) -> None:
    """The gradient is zero and not None: with None, ZeRO-3 would keep the gradient of an earlier update."""
    stream, drops = drop_in_turn(4, 0.5)
    encoder = build_encoder(parallel, stream, num_layers=4, layerdrop=0.5, normalize_before=normalize_before)
    out_BSD, _ = encoder(random_x(3, 6), bools("000000", "100001", "000111"), random_bias(4), keep_from=4)
    (out_BSD * random_x(3, 6, seed=2)).sum().backward()
    for block, is_out in zip(encoder.layers, drops, strict=True):
        gradients = [p.grad for p in block.parameters()]
        assert all(g is not None and g.any() != is_out for g in gradients)
    kept = [block for block, is_out in zip(encoder.layers, drops, strict=True) if not is_out]
    biases = random_bias(4)
    assert biases is not None
    short = build_encoder(parallel, num_layers=len(kept), normalize_before=normalize_before)
    short.layers, short.final_norm = nn.ModuleList(kept), encoder.final_norm
    own = biases[[number for number, is_out in enumerate(drops) if not is_out]]
    expected_BSD, _ = short(random_x(3, 6), bools("000000", "100001", "000111"), own, keep_from=4)
    torch.testing.assert_close(out_BSD, expected_BSD, atol=1e-6, rtol=1e-6)


def test_the_dropped_blocks_depend_on_update_and_micro_batch_and_not_on_the_rank(parallel: Parallel) -> None:
    stream = DropoutStream(seed=1)
    encoder = build_encoder(parallel, stream, num_layers=6, layerdrop=0.5)
    calls: list[int] = []
    for number, block in enumerate(encoder.layers):
        block.register_forward_hook(lambda module, inputs, output, n=number: calls.append(n) if len(inputs[0]) == 4 else None)

    def kept(**counters: int) -> list[int]:
        for name, value in counters.items():
            setattr(stream, name, value)
        calls.clear()
        encoder(random_x(2, 4), None, None, keep_from=6)
        return list(calls)

    seen = {(update, micro): kept(update=update, micro_batch=micro) for update in range(4) for micro in range(2)}
    assert len(set(map(tuple, seen.values()))) > 4
    assert kept(update=2, micro_batch=1, dp_rank=5, tp_rank=1) == seen[2, 1] == [n for n in range(6) if not is_dropped(stream, 0.5, n)]


def test_no_block_is_dropped_in_eval_mode(parallel: Parallel) -> None:
    encoder = build_encoder(parallel, num_layers=3, layerdrop=1.0)
    whole = build_encoder(parallel, num_layers=3)
    x_BSD = random_x(2, 4)
    torch.testing.assert_close(encoder(x_BSD, None, None, keep_from=3)[0], x_BSD, atol=0, rtol=0)
    out_BSD, kept = encoder.eval()(x_BSD, None, None, keep_from=0)
    torch.testing.assert_close(out_BSD, whole(x_BSD, None, None, keep_from=0)[0], atol=0, rtol=0)
    assert len(kept) == 3


def outputs_and_gradients(parallel: Parallel, *, recomputes: bool) -> tuple[list[Tensor], list[Tensor], int]:
    """Return outputs and gradients of an encoder in training with every kind of dropout, and how often its blocks ran."""
    rates = {"hidden_dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "drop_path": 0.3, "layerdrop": 0.3}
    encoder = build_encoder(parallel, DropoutStream(seed=2, update=5), num_layers=4, normalize_before=True, **rates)
    runs: list[int] = []
    for block in encoder.layers:
        block.recomputes = recomputes
        block.ffn.register_forward_hook(lambda *_: runs.append(1))
    x_BSD, bias_LHSS = random_x(3, 6).requires_grad_(), random_bias(1)
    assert bias_LHSS is not None
    out_BSD, kept = encoder(x_BSD, bools("000000", "100001", "000111"), bias_LHSS.requires_grad_(), keep_from=1)
    outputs = [out_BSD, *(one for layer in kept for one in layer)]
    torch.stack([one.square().sum() for one in outputs]).sum().backward()
    gradients = [one.grad for one in (x_BSD, bias_LHSS, *encoder.parameters()) if one.grad is not None]
    return outputs, gradients, len(runs)


def test_recomputed_blocks_run_twice_and_give_the_same_outputs_and_gradients_bit_for_bit(parallel: Parallel) -> None:
    (outputs, gradients, runs), (again, same, twice) = (outputs_and_gradients(parallel, recomputes=on) for on in (False, True))
    dropped = sum(is_dropped(DropoutStream(seed=2, update=5), 0.3, number) for number in range(4))
    assert 0 < dropped < 4 and (runs, twice) == (4, 8), "skipped blocks too, so that ZeRO-3 gathers in the same order in each update"
    assert len(gradients) == len(same) > 40 and all(one.any() for one in gradients[:2])
    for one, other in zip(outputs + gradients, again + same, strict=True):
        torch.testing.assert_close(other, one, atol=0, rtol=0)


def test_nothing_is_recomputed_without_gradients(parallel: Parallel) -> None:
    encoder, saved = build_encoder(parallel, num_layers=2), []
    for block in encoder.layers:
        block.recomputes = True
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x), torch.no_grad():
        plain_BSD, _ = encoder(random_x(2, 6), None, None, keep_from=2)
    assert not saved and not plain_BSD.requires_grad
