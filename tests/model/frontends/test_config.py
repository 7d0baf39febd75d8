"""Arithmetic of the front-ends' settings: published totals, lengths and FLOPs. Comparisons with the modules' parameters are in the
tests of each front-end."""

import math
from dataclasses import replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.activations import Storage
from model.config import BlockConfig, EncoderConfig
from model.dropout import DropoutStream
from model.frontends.config import FrontendConfig, TextFrontendConfig, VisionFrontendConfig
from model.frontends.speech_config import SpeechFrontendConfig
from model.frontends.vision import VisionFrontend
from model.init import Init
from model.parallel import Parallel
from model.shapes import count_parameters, linear_layers
from tests.model.reference import PLAIN

SPEECH, VISION = SpeechFrontendConfig(), VisionFrontendConfig()
BASE = EncoderConfig(head_layers=1)
LARGE = EncoderConfig(num_layers=24, hidden_size=1024, ffn_hidden_size=4096, num_attention_heads=16, head_layers=0)
BEIT = BlockConfig(normalize_before=True, key_bias=False, layer_scale=1e-4)


def count(frontend: FrontendConfig, encoder: EncoderConfig) -> int:
    return count_parameters(frontend.parameters(encoder))


def total(frontend: SpeechFrontendConfig | VisionFrontendConfig, encoder: EncoderConfig) -> int:
    return count_parameters([*frontend.parameters(encoder), *encoder.parameters, *linear_layers(encoder.head_widths(encoder.hidden_size))])


def test_vision_base_has_beits_parameters_and_a_table_of_732_rows() -> None:
    """85.8M: ViT-B/16 without absolute positions and classifier."""
    encoder = EncoderConfig(head_layers=0, block=BEIT)
    without = replace(VISION, relative_bias="none")
    assert count(VISION, encoder) - count(without, encoder) == 732 * 12
    per_layer = replace(VISION, relative_bias="per_layer")
    assert count(per_layer, encoder) - count(without, encoder) == 12 * 732 * 12
    # torchvision's ViT-B/16 with 1000 classes has 86,567,656: minus the classifier, 197 positions and 12 key biases, plus the mask
    # vector, 24 layer scales and the table
    assert total(VISION, encoder) == 86_567_656 - (768 * 1000 + 1000) - 197 * 768 - 12 * 768 + 768 + 24 * 768 + 732 * 12


def test_prefix_tokens_grids_and_splits() -> None:
    assert (TextFrontendConfig().num_prefix_tokens, SPEECH.num_prefix_tokens, VISION.num_prefix_tokens) == (0, 0, 1)
    assert (VISION.grid, VisionFrontendConfig(image_size=64, patch_size=8).grid) == (14, 8)
    assert SPEECH.split_sizes() == VISION.split_sizes() == {}
    assert [replace(VISION, relative_bias=kind).num_tables(7) for kind in ("shared", "per_layer", "none")] == [1, 7, 0]


def counted_flops(frontend: nn.Module, *inputs: torch.Tensor | None) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        frontend(*inputs)
    return int(counter.get_total_flops())


def test_vision_flops_equal_torchs_count(parallel: Parallel) -> None:
    config = VisionFrontendConfig(image_size=32, patch_size=8)
    frontend = VisionFrontend(config, PLAIN, Init(1), parallel, DropoutStream())
    flops = config.forward_flops(PLAIN, 16)
    assert 3 * flops.forward == counted_flops(frontend, torch.randn(3, 3, 32, 32), None, None)
    assert flops.raw == flops.forward == flops.backward(freezes_features=False), "pixels get no gradient"


def test_text_parameters_and_padded_table() -> None:
    config = TextFrontendConfig(vocab_size=100, max_positions=20)
    assert config.padded_vocab_size == 128 and math.prod(config.split_sizes().values()) == 128
    assert count(config, PLAIN) == 100 * 16 + 22 * 16 + 2 * 16
    assert count(replace(config, positions="relative"), PLAIN) == 100 * 16 + 39 * 4 + 2 * 16
    assert config.forward_flops(PLAIN, 5).forward == config.forward_flops(PLAIN, 5).backward(freezes_features=False) == 0


FP32, HALF_ON_GPU = Storage(4, on_gpu=False), Storage(2, on_gpu=True, tp_size=2)


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
