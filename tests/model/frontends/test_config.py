"""Arithmetic of the front-ends' settings: published totals, lengths and FLOPs. Comparisons with the modules' parameters are in the
tests of each front-end."""

import math
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
from model.frontends.config import SpeechFrontendConfig, TextFrontendConfig, VisionFrontendConfig
from model.frontends.speech import SpeechFrontend
from model.frontends.vision import VisionFrontend
from model.init import Init
from model.parallel import Parallel
from tests.model.reference import PLAIN

SPEECH, VISION = SpeechFrontendConfig(), VisionFrontendConfig()
BASE = EncoderConfig(head_layers=1)
LARGE = EncoderConfig(num_layers=24, hidden_size=1024, ffn_hidden_size=4096, num_attention_heads=16, head_layers=0)
BEIT = BlockConfig(normalize_before=True, key_bias=False, layer_scale=1e-4)


def total(frontend: SpeechFrontendConfig | VisionFrontendConfig, encoder: EncoderConfig) -> int:
    return frontend.num_parameters(encoder) + encoder.num_block_parameters + encoder.num_head_parameters


def test_speech_base_has_the_published_93_754_880_parameters_with_its_head() -> None:
    assert total(SPEECH, BASE) == 93_754_880


def test_speech_large_has_the_published_313_276_416_parameters_without_head() -> None:
    assert total(SPEECH, LARGE) == 313_276_416


def test_vision_base_has_beits_parameters_and_a_table_of_732_rows() -> None:
    """85.8M: ViT-B/16 without absolute positions and classifier."""
    encoder = EncoderConfig(head_layers=0, block=BEIT)
    without = replace(VISION, relative_bias="none")
    assert VISION.num_parameters(encoder) - without.num_parameters(encoder) == 732 * 12
    per_layer = replace(VISION, relative_bias="per_layer")
    assert per_layer.num_parameters(encoder) - without.num_parameters(encoder) == 12 * 732 * 12
    # torchvision's ViT-B/16 with 1000 classes has 86,567,656: minus the classifier, 197 positions and 12 key biases, plus the mask
    # vector, 24 layer scales and the table
    assert total(VISION, encoder) == 86_567_656 - (768 * 1000 + 1000) - 197 * 768 - 12 * 768 + 768 + 24 * 768 + 732 * 12


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


def test_prefix_tokens_grids_and_splits() -> None:
    assert (TextFrontendConfig().num_prefix_tokens, SPEECH.num_prefix_tokens, VISION.num_prefix_tokens) == (0, 0, 1)
    assert (VISION.grid, VisionFrontendConfig(image_size=64, patch_size=8).grid) == (14, 8)
    assert SPEECH.split_sizes() == VISION.split_sizes() == {}
    assert [replace(VISION, relative_bias=kind).num_tables(7) for kind in ("shared", "per_layer", "none")] == [1, 7, 0]


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


def test_vision_flops_equal_torchs_count(parallel: Parallel) -> None:
    config = VisionFrontendConfig(image_size=32, patch_size=8)
    frontend = VisionFrontend(config, PLAIN, Init(1), parallel, DropoutStream())
    flops = config.forward_flops(PLAIN, 16)
    assert 3 * flops.forward == counted_flops(frontend, torch.randn(3, 3, 32, 32), None, None)
    assert flops.raw == flops.forward == flops.backward(freezes_features=False), "pixels get no gradient"


def test_text_parameters_and_padded_table() -> None:
    config = TextFrontendConfig(vocab_size=100, max_positions=20)
    assert config.padded_vocab_size == 128 and math.prod(config.split_sizes().values()) == 128
    assert config.num_parameters(PLAIN) == 100 * 16 + 22 * 16 + 2 * 16
    assert replace(config, positions="relative").num_parameters(PLAIN) == 100 * 16 + 39 * 4 + 2 * 16
    assert config.forward_flops(PLAIN, 5).forward == config.forward_flops(PLAIN, 5).backward(freezes_features=False) == 0


def test_what_a_frame_reads_of_the_first_convolution_is_what_it_reads_of_the_waveform() -> None:
    """320 raw samples from frame to frame are 64 outputs of a convolution with stride 5."""
    assert (SPEECH.first_stride, SPEECH.first_field) == (64, 79)
    assert (SPEECH.first_field - 1) * SPEECH.conv_strides[0] + SPEECH.conv_kernels[0] == SPEECH.receptive_field
    behind = replace(SPEECH, conv_kernels=SPEECH.conv_kernels[1:], conv_strides=SPEECH.conv_strides[1:])
    assert [behind.num_frames((frames - 1) * 64 + 79) for frames in (1, 2, 50)] == [1, 2, 50]
    assert [behind.num_frames((frames - 1) * 64 + 78) for frames in (1, 2, 50)] == [0, 1, 49]


FP32, HALF_ON_GPU = Storage(4, on_gpu=False), Storage(2, on_gpu=True, tp_size=2)


def test_the_extractor_keeps_three_tensors_of_each_of_its_convolutions_unless_it_is_frozen() -> None:
    """127 outputs a frame: 64 + 32 + 16 + 8 + 4 + 2 + 1 of 512 channels. The last one is no input of a convolution."""
    whole, frozen = (SPEECH.activation_bytes(BASE, FP32, freezes_features=freezes) for freezes in (False, True))
    extractor = sum(whole[name] for name in whole.keys() - frozen.keys())
    assert extractor == 4 * (320 + 512 * (127 + 127 + 126))
    assert sum(frozen.values()) == 4 * (2 * 512 + 768 * (1 + 3 * 5 + 1 + 1))
    grouped = replace(SPEECH, extractor_norm="group", pos_conv_depth=1).activation_bytes(BASE, FP32, freezes_features=False)
    assert sum(whole.values()) - sum(grouped.values()) == 4 * (512 * (127 - 64) + 768 * (3 * 5 - 2))


def test_text_keeps_the_input_of_its_norm_and_a_mask() -> None:
    text = TextFrontendConfig()
    assert sum(text.activation_bytes(BASE, FP32, freezes_features=False).values()) == 8 + 8 + 2 * 4 * 768
    assert sum(text.activation_bytes(BASE, HALF_ON_GPU, freezes_features=False).values()) == 8 + 8 + 3 * 768
    assert text.table_size(BASE) == 50_304 * 768 and SPEECH.table_size(BASE) == VISION.table_size(BASE) == 0


def test_a_learned_bias_is_counted_once_a_micro_batch_and_split_over_tensor_parallel_ranks() -> None:
    relative = TextFrontendConfig(positions="relative")
    assert sum(relative.bias_bytes(BASE, FP32, 512).values()) == (12 * 4 + 8) * 512**2
    assert sum(VISION.bias_bytes(BASE, HALF_ON_GPU, 197).values()) == (6 * 2 + 8) * 197**2
    per_layer = replace(VISION, relative_bias="per_layer").bias_bytes(BASE, FP32, 197)
    assert sum(per_layer.values()) == (12 * 12 * 4 + 8) * 197**2
    without = (TextFrontendConfig(), SPEECH, replace(VISION, relative_bias="none"))
    assert [frontend.bias_bytes(BASE, FP32, 64) for frontend in without] == [{}, {}, {}]


def test_images_keep_their_features_and_in_a_narrow_type_their_pixels() -> None:
    assert sum(VISION.activation_bytes(BASE, FP32, freezes_features=False).values()) == 4 * 768
    assert sum(VISION.activation_bytes(BASE, HALF_ON_GPU, freezes_features=False).values()) == 2 * (768 + 768)
