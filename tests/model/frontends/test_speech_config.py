"""Arithmetic of the settings of speech's front-end: published totals, lengths, FLOPs and activations. Comparisons with the module's
parameters are in test_speech.py."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.activations import Storage
from model.config import BlockConfig, EncoderConfig
from model.dropout import DropoutStream
from model.frontends.config import FrontendConfig, VisionFrontendConfig
from model.frontends.speech import SpeechFrontend
from model.frontends.speech_config import SpeechFrontendConfig
from model.init import Init
from model.parallel import Parallel
from model.shapes import count_parameters, linear_layers
from tests.model.reference import PLAIN

SPEECH, FP32 = SpeechFrontendConfig(), Storage(4, on_gpu=False)
BASE = EncoderConfig(head_layers=1)
LARGE = EncoderConfig(num_layers=24, hidden_size=1024, ffn_hidden_size=4096, num_attention_heads=16, head_layers=0)
BEIT = BlockConfig(normalize_before=True, key_bias=False, layer_scale=1e-4)


def count(frontend: FrontendConfig, encoder: EncoderConfig) -> int:
    return count_parameters(frontend.parameters(encoder))


def total(frontend: SpeechFrontendConfig | VisionFrontendConfig, encoder: EncoderConfig) -> int:
    return count_parameters([*frontend.parameters(encoder), *encoder.parameters, *linear_layers(encoder.head_widths(encoder.hidden_size))])


def test_speech_base_has_the_published_93_754_880_parameters_with_its_head() -> None:
    assert total(SPEECH, BASE) == 93_754_880


def test_speech_large_has_the_published_313_276_416_parameters_without_head() -> None:
    assert total(SPEECH, LARGE) == 313_276_416


@pytest.mark.parametrize(("samples", "frames"), [(320_000, 999), (16_000, 49), (400, 1), (399, 0), (719, 1), (720, 2), (0, 0), (5, 0)])
def test_numbers_of_frames_are_the_published_ones(samples: int, frames: int) -> None:
    assert SPEECH.num_frames(samples) == frames


def test_a_frame_covers_25_ms_and_the_next_one_begins_after_20() -> None:
    assert (SPEECH.receptive_field, SPEECH.stride) == (400, 320)  # at 16 kHz; data2vec.md 2.2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=4), st.integers(0, 500))
def test_frames_follow_from_receptive_field_and_stride(layers: list[tuple[int, int]], samples: int) -> None:
    config = SpeechFrontendConfig(conv_kernels=tuple(k for k, _ in layers), conv_strides=tuple(s for _, s in layers))
    expected = max(0, (samples - config.receptive_field) // config.stride + 1)
    assert config.num_frames(samples) == expected
    if expected:
        convolved = torch.zeros(1, 1, samples)
        for kernel, stride in layers:
            convolved = nn.functional.conv1d(convolved, torch.ones(1, 1, kernel), stride=stride)
        assert convolved.shape[2] == expected


def test_kernels_and_strides_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        SpeechFrontendConfig(conv_strides=(5, 2)).num_frames(1000)


def counted_flops(frontend: nn.Module, *inputs: torch.Tensor | None) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        frontend(*inputs)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("depth", [1, 5])
def test_speech_flops_equal_torchs_count_within_half_a_percent_for_the_edges(parallel: Parallel, depth: int) -> None:
    config = SpeechFrontendConfig(conv_dim=8, pos_conv_depth=depth, pos_conv_groups=4)
    frontend = SpeechFrontend(config, PLAIN, Init(1), parallel, DropoutStream())
    inputs_BT = torch.randn(2, 64_000)
    counted = counted_flops(frontend, inputs_BT, None, None)
    flops = config.forward_flops(PLAIN, config.num_frames(64_000))
    assert 2 * flops.forward == pytest.approx(counted, rel=0.005)
    features_BND = frontend(inputs_BT, None, None).features_BND
    assert 2 * flops.positions == pytest.approx(counted_flops(frontend, None, None, None, features_BND), rel=0.005)
    assert flops.backward(freezes_features=False) - flops.backward(freezes_features=True) == flops.raw + 2 * flops.inner
    assert flops.raw == pytest.approx(2 * 10 * 8 * (64_000 - 10) // 5, rel=0.005)


def test_the_convolutions_have_outputs_at_the_end_that_no_frame_reads() -> None:
    """20 s: kernels x strides from data2vec_audio.py, each convolution at its own number of frames."""
    num_samples, products = 320_000, []
    for kernel, stride in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True):
        num_samples = (num_samples - kernel) // stride + 1
        products.append(2 * 512 * num_samples * kernel)
    assert num_samples == 999 and SPEECH.num_outputs(320_000)[1:3] == [63_999, 31_999]
    flops = SPEECH.forward_flops(BASE, 999)
    assert (flops.raw, flops.inner) == pytest.approx((products[0], 512 * sum(products[1:])), rel=5e-4)
    assert (flops.features, flops.positions) == (999 * 2 * 512 * 768, 999 * 5 * 2 * 19 * 768 * 768 // 16)


def test_what_a_frame_reads_of_the_first_convolution_is_what_it_reads_of_the_waveform() -> None:
    """320 raw samples from frame to frame are 64 outputs of a convolution with stride 5."""
    assert (SPEECH.first_stride, SPEECH.first_field) == (64, 79)
    assert (SPEECH.first_field - 1) * SPEECH.conv_strides[0] + SPEECH.conv_kernels[0] == SPEECH.receptive_field
    behind = replace(SPEECH, conv_kernels=SPEECH.conv_kernels[1:], conv_strides=SPEECH.conv_strides[1:])
    assert [behind.num_frames((frames - 1) * 64 + 79) for frames in (1, 2, 50)] == [1, 2, 50]
    assert [behind.num_frames((frames - 1) * 64 + 78) for frames in (1, 2, 50)] == [0, 1, 49]


def test_the_extractor_keeps_three_tensors_of_each_of_its_convolutions_unless_it_is_frozen() -> None:
    """127 outputs a frame: 64 + 32 + 16 + 8 + 4 + 2 + 1 of 512 channels. The last one is no input of a convolution."""
    whole, frozen = (SPEECH.activation_bytes(BASE, FP32, freezes_features=freezes) for freezes in (False, True))
    extractor = sum(whole[name] for name in whole.keys() - frozen.keys())
    assert extractor == 4 * (320 + 512 * (127 + 127 + 126))
    assert sum(frozen.values()) == 4 * (2 * 512 + 768 * (1 + 3 * 5 + 1 + 1))
    grouped = replace(SPEECH, extractor_norm="group", pos_conv_depth=1).activation_bytes(BASE, FP32, freezes_features=False)
    assert sum(whole.values()) - sum(grouped.values()) == 4 * (512 * (127 - 64) + 768 * (3 * 5 - 2))
