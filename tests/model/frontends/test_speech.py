"""The speech front-end: parity with a reference in plain torch, masks, given features, initial values, and ZeRO-3."""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.config import EncoderConfig
from model.dropout import DropoutStream
from model.frontends.speech import PositionalConv, SpeechFrontend, WeightNormedConv
from model.frontends.speech_config import SpeechFrontendConfig
from model.init import Init
from model.parallel import Parallel
from tests.distributed import run_distributed
from tests.model.frontends.reference import reference_speech
from tests.model.frontends.sharded import compare_with_whole
from tests.model.reference import PLAIN, described, names_and_shapes, plain, stir

SPEECH = SpeechFrontendConfig(
    conv_dim=8, conv_kernels=(10, 3, 2), conv_strides=(5, 2, 2), pos_conv_depth=3, pos_conv_kernel=5, pos_conv_groups=4
)
SAMPLES = 410
PRE_LN = plain(normalize_before=True)
D, FRAMES = 16, 20
TOLERANCE = 1e-5

WAVES_BT = torch.randn(2, SAMPLES, generator=torch.Generator().manual_seed(3))
MASK_BS = torch.rand(2, FRAMES, generator=torch.Generator().manual_seed(4)) < 0.4
PADDING_BS = torch.arange(FRAMES) >= torch.tensor([[FRAMES], [14]])


def build(parallel: Parallel, encoder: EncoderConfig = PLAIN, **changes: Any) -> SpeechFrontend:
    frontend = SpeechFrontend(replace(SPEECH, **changes), encoder, Init(1), parallel, DropoutStream())
    stir(frontend)
    return frontend


def weights(frontend: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in frontend.named_parameters()}


@pytest.mark.parametrize("is_masked", [False, True], ids=["clean", "masked"])
@pytest.mark.parametrize("is_padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("encoder", [PLAIN, PRE_LN], ids=["post_ln", "pre_ln"])
@pytest.mark.parametrize(("depth", "kernel"), [(3, 5), (3, 4), (1, 5), (1, 6)])
@pytest.mark.parametrize("extractor_norm", ["layer", "group"])
def test_output_and_features_equal_the_published_architectures_within_1e_5(
    parallel: Parallel, extractor_norm: str, depth: int, kernel: int, encoder: EncoderConfig, is_padded: bool, is_masked: bool
) -> None:
    frontend = build(parallel, encoder, extractor_norm=extractor_norm, pos_conv_depth=depth, pos_conv_kernel=kernel)
    config = replace(SPEECH, extractor_norm=extractor_norm, pos_conv_depth=depth, pos_conv_kernel=kernel)
    mask, padding = MASK_BS if is_masked else None, PADDING_BS if is_padded else None
    output = frontend(WAVES_BT, mask, padding)
    x_BSD, features_BSD = reference_speech(weights(frontend), WAVES_BT, config, encoder, mask_BS=mask, padding_BS=padding)
    assert output.x_BSD.shape == (2, FRAMES, D) and output.bias_LHSS is None
    torch.testing.assert_close(output.x_BSD, x_BSD, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(output.features_BND, features_BSD, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("changes", [{"conv_bias": True}, {"exact_padding": True}, {"exact_padding": True, "pos_conv_depth": 1}])
def test_options_equal_the_reference_within_1e_5(parallel: Parallel, changes: dict[str, Any]) -> None:
    frontend = build(parallel, **changes)
    x_BSD, _ = reference_speech(weights(frontend), WAVES_BT, replace(SPEECH, **changes), PLAIN, mask_BS=MASK_BS, padding_BS=PADDING_BS)
    torch.testing.assert_close(frontend(WAVES_BT, MASK_BS, PADDING_BS).x_BSD, x_BSD, atol=TOLERANCE, rtol=0)


def test_masked_channels_are_0_at_every_frame_after_the_mask_vector(parallel: Parallel) -> None:
    frontend = build(parallel)
    seen: list[Tensor] = []
    frontend.positions.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    channels_BD = torch.rand(2, D, generator=torch.Generator().manual_seed(5)) < 0.5
    frontend(WAVES_BT, MASK_BS, PADDING_BS, channel_mask_BD=channels_BD)
    frontend(WAVES_BT, MASK_BS, PADDING_BS)
    torch.testing.assert_close(seen[0], seen[1].masked_fill(channels_BD[:, None, :], 0.0), atol=0, rtol=0)
    assert seen[1][0, :, channels_BD[0]].any()


def test_frozen_features_give_the_same_output_and_their_parameters_no_gradient(parallel: Parallel) -> None:
    frontend = build(parallel)
    expected_BSD = frontend(WAVES_BT, MASK_BS, PADDING_BS).x_BSD
    frontend.freezes_features = True
    frozen_BSD = frontend(WAVES_BT, MASK_BS, PADDING_BS).x_BSD
    torch.testing.assert_close(frozen_BSD, expected_BSD, atol=0, rtol=0)
    frozen_BSD.square().sum().backward()
    without = {name for name, p in frontend.named_parameters() if p.grad is None}
    assert without == {name for name in weights(frontend) if name.startswith(SpeechFrontendConfig.raw_parts)} and len(without) == 9


def test_masked_frames_have_the_mask_vector_for_any_input(parallel: Parallel) -> None:
    frontend, mask_BS = build(parallel), torch.ones(2, FRAMES, dtype=torch.bool)
    torch.testing.assert_close(frontend(WAVES_BT, mask_BS, None).x_BSD, frontend(-WAVES_BT, mask_BS, None).x_BSD, atol=0, rtol=0)
    assert not torch.equal(frontend(WAVES_BT, None, None).x_BSD, frontend(-WAVES_BT, None, None).x_BSD)


def test_padding_has_priority_over_the_mask(parallel: Parallel) -> None:
    """fairseq zeroes padded frames after the mask vector is placed."""
    frontend = build(parallel)
    torch.testing.assert_close(
        frontend(WAVES_BT, MASK_BS | PADDING_BS, PADDING_BS).x_BSD, frontend(WAVES_BT, MASK_BS, PADDING_BS).x_BSD, atol=0, rtol=0
    )


def test_features_are_detached_and_come_before_the_mask(parallel: Parallel) -> None:
    frontend = build(parallel)
    masked, clean = frontend(WAVES_BT, MASK_BS, PADDING_BS), frontend(WAVES_BT, None, None)
    assert masked.x_BSD.requires_grad and not masked.features_BND.requires_grad
    torch.testing.assert_close(masked.features_BND, clean.features_BND, atol=0, rtol=0)


def test_given_features_replace_the_waveform(parallel: Parallel) -> None:
    frontend = build(parallel)
    features_BND = frontend(WAVES_BT, MASK_BS, PADDING_BS).features_BND
    computed = frontend(WAVES_BT, None, PADDING_BS)
    read = frontend(torch.full_like(WAVES_BT, torch.nan), None, PADDING_BS, features_BND)
    torch.testing.assert_close(read.x_BSD, computed.x_BSD, atol=0, rtol=0)
    torch.testing.assert_close(read.features_BND, features_BND, atol=0, rtol=0)
    read.x_BSD.sum().backward()
    assert {n.partition(".")[0] for n, p in frontend.named_parameters() if p.grad is not None} == {"positions", "norm"}


@pytest.mark.parametrize("changes", [{}, {"extractor_norm": "group", "pos_conv_depth": 1, "conv_bias": True}])
def test_every_parameter_gets_a_gradient(parallel: Parallel, changes: dict[str, Any]) -> None:
    frontend = build(parallel, **changes)
    frontend(WAVES_BT, MASK_BS, PADDING_BS).x_BSD.square().sum().backward()
    assert not [n for n, p in frontend.named_parameters() if p.grad is None or not p.grad.any()]


def test_the_weights_determine_the_dtype_of_all_outputs(parallel: Parallel) -> None:
    frontend = build(parallel).bfloat16()
    output = frontend(WAVES_BT, MASK_BS, PADDING_BS)
    assert output.x_BSD.dtype == output.features_BND.dtype == torch.bfloat16
    assert frontend(WAVES_BT, None, None, output.features_BND.float()).x_BSD.dtype == torch.bfloat16


def test_dropout_acts_in_training_only_at_site_0(parallel: Parallel) -> None:
    frontend = build(parallel, plain(hidden_dropout=0.5))
    dropped_BSD = frontend(WAVES_BT, None, None).x_BSD
    evaluated_BSD = frontend.eval()(WAVES_BT, None, None).x_BSD
    assert 0.3 < float((dropped_BSD == 0).float().mean()) < 0.7
    torch.testing.assert_close(dropped_BSD[dropped_BSD != 0], 2 * evaluated_BSD[dropped_BSD != 0])
    assert frontend.dropout.site == 0 and not frontend.dropout.split


def test_shared_parameters_are_the_features_or_all_but_the_entry_norm(parallel: Parallel) -> None:
    frontend = build(parallel)
    names, norm = set(weights(frontend)), {"norm.weight", "norm.bias"}
    positions = {f"positions.layers.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")}
    assert frontend.shared_parameters("nothing") == set()
    assert frontend.shared_parameters("features") == names - norm - positions
    assert frontend.shared_parameters("frontend") == names - norm
    assert {"mask_vector", "projection.weight", "feature_norm.bias", "extractor.layers.2.norm.weight"} <= names - norm - positions
    single = build(parallel, pos_conv_depth=1)
    more = single.shared_parameters("frontend") - single.shared_parameters("features")
    assert more == {f"positions.layers.0.{kind}" for kind in ("weight_g", "weight_v", "bias")}


def test_pre_ln_blocks_have_no_entry_norm(parallel: Parallel) -> None:
    assert not [name for name in weights(build(parallel, PRE_LN)) if name.startswith("norm.")]


def test_entry_norm_has_the_epsilon_of_the_blocks(parallel: Parallel) -> None:
    frontend = build(parallel, plain(layernorm_epsilon=1e-3))
    assert (frontend.norm.eps, frontend.feature_norm.eps) == (1e-3, 1e-5)


@pytest.mark.parametrize("num_samples", [30, 31, 69, 70, 71, 400, 1234])
def test_the_number_of_frames_is_the_settings_number(parallel: Parallel, num_samples: int) -> None:
    x_BSD = build(parallel)(torch.randn(1, num_samples), None, None).x_BSD
    assert x_BSD.shape[1] == SPEECH.num_frames(num_samples)


@pytest.mark.parametrize("changes", [{}, {"conv_bias": True}, {"extractor_norm": "group"}, {"pos_conv_depth": 1}, {"pos_conv_kernel": 4}])
@pytest.mark.parametrize("encoder", [PLAIN, PRE_LN], ids=["post_ln", "pre_ln"])
def test_the_parameters_are_those_of_the_settings(parallel: Parallel, encoder: EncoderConfig, changes: dict[str, Any]) -> None:
    frontend = build(parallel, encoder, **changes)
    assert described(frontend) == names_and_shapes(replace(SPEECH, **changes).parameters(encoder))
    assert not list(frontend.buffers()) and frontend.num_prefix_tokens == SpeechFrontendConfig.num_prefix_tokens == 0


WIDE = SpeechFrontendConfig(conv_dim=64, conv_kernels=(10, 3, 2), conv_strides=(5, 2, 2), conv_bias=True, pos_conv_depth=2)


def wide(parallel: Parallel, **changes: Any) -> dict[str, Tensor]:
    encoder = plain(hidden_size=96, init_std=0.5)  # the front-end has its own initial values
    return weights(SpeechFrontend(replace(WIDE, **changes), encoder, Init(1), parallel, DropoutStream()))


def check_uniform(name: str, tensor: Tensor, low: float, high: float) -> None:
    width, n = high - low, tensor.numel()
    assert low <= float(tensor.min()) < low + 8 * width / n and high - 8 * width / n < float(tensor.max()) <= high, name
    assert float(tensor.mean()) == pytest.approx((low + high) / 2, abs=5 * width / math.sqrt(12 * n)), name


def test_initial_values_are_the_published_ones(parallel: Parallel) -> None:
    started = wide(parallel)
    for name, tensor in started.items():
        owner, _, kind = name.rpartition(".")
        fan_in = started[f"{owner}.weight"][0].numel() if owner else 1
        if "norm" in owner:
            assert (tensor == (1 if kind == "weight" else 0)).all(), name
        elif owner.startswith("extractor") and kind == "weight":
            assert float(tensor.std()) == pytest.approx(math.sqrt(2 / fan_in), rel=5 / math.sqrt(2 * tensor.numel())), name
            assert float(tensor.abs().max()) > 2.5 * math.sqrt(2 / fan_in), f"{name} is not normal"
        elif name == "mask_vector":
            check_uniform(name, tensor, 0.0, 1.0)
        else:
            check_uniform(name, tensor, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
    drawn = [t.flatten()[:64] / t.std() for n, t in started.items() if "norm" not in n]
    assert all(float((a - b).abs().max()) > 0.1 for a, b in pairwise(drawn)), "every name gets different numbers"


def test_the_initial_weight_of_the_weight_normed_convolution_is_the_drawn_one(parallel: Parallel) -> None:
    started = wide(parallel, pos_conv_depth=1)
    v, g = started["positions.layers.0.weight_v"], started["positions.layers.0.weight_g"]
    assert float(v.std()) == pytest.approx(math.sqrt(4 / (19 * 96)), rel=5 / math.sqrt(2 * v.numel()))
    assert g.shape == (1, 1, 19) and not started["positions.layers.0.bias"].any()
    torch.testing.assert_close(g.flatten(), torch.stack([v[:, :, tap].norm() for tap in range(19)]))


def test_the_norms_of_the_weight_normed_convolution_are_those_of_the_whole_weight_on_a_rank_that_keeps_a_part() -> None:
    whole, part = (WeightNormedConv(8, 5, 2, Init(1, share=share)) for share in ((0, 1), (1, 3)))
    assert torch.equal(part.weight_g, whole.weight_g)


@pytest.mark.parametrize("kernel", [4, 5])
@pytest.mark.parametrize("kind", [PositionalConv, WeightNormedConv])
def test_positional_convolutions_read_both_sides_and_keep_the_length(kind: type[nn.Module], kernel: int) -> None:
    conv = kind(8, kernel, 2, Init(1))
    x_BSD = torch.zeros(1, 11, 8)
    x_BSD[0, 5] = torch.randn(8)
    changed_S = (conv(x_BSD) - conv(torch.zeros(1, 11, 8))).abs().amax(dim=(0, 2)) > 1e-6
    # tap t reads frame s + t - kernel // 2
    assert changed_S.nonzero()[:, 0].tolist() == [5 + kernel // 2 - tap for tap in reversed(range(kernel))]


def compare_under_zero(changes: dict[str, Any]) -> dict[str, float]:
    return compare_with_whole(partial(SpeechFrontend, replace(SPEECH, **changes), PLAIN), [WAVES_BT, MASK_BS, PADDING_BS])


@pytest.mark.parametrize(
    "changes",
    [
        {"conv_bias": True},
        {"extractor_norm": "group", "pos_conv_depth": 1},
        {"extractor_norm": "group", "exact_statistics": True, "exact_padding": True},
    ],
    ids=["stack", "single", "exact"],
)
def test_zero_3_on_two_ranks_has_the_values_and_outputs_of_one_rank(changes: dict[str, Any]) -> None:
    for seen in run_distributed(compare_under_zero, 2, changes):
        assert {name for name, difference in seen.items() if name.startswith("first") and difference} == set()
        assert {name: difference for name, difference in seen.items() if difference > TOLERANCE} == {}
