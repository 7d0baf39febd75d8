"""Counts that the settings compute without torch, compared with the modules that they describe."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.config import BlockConfig, BlockMaskConfig, EncoderConfig, LossConfig, MaskConfig, SpanMaskConfig, TeacherConfig, TokenMaskConfig
from model.dropout import DropoutStream
from model.encoder import Encoder
from model.frontends.config import TextFrontendConfig
from model.frontends.text import TextFrontend
from model.heads import MaskedHead
from model.init import Init
from model.masking import block_mask, span_mask, token_mask
from model.parallel import Parallel
from model.shapes import count_parameters, linear_layers
from tests.model.reference import described, names_and_shapes, plain


@pytest.mark.parametrize(
    "block", [{}, {"normalize_before": True}, {"key_bias": False}, {"layer_scale": 0.1}, {"drop_path": 0.1, "layerdrop": 0.1}]
)
@pytest.mark.parametrize("sizes", [{}, {"num_layers": 3, "hidden_size": 24, "ffn_hidden_size": 40, "num_attention_heads": 2}])
def test_block_parameters_are_those_of_the_encoder(parallel: Parallel, block: dict[str, Any], sizes: dict[str, int]) -> None:
    config = plain(**block, **sizes)
    assert names_and_shapes(config.parameters) == described(Encoder(config, Init(1), parallel, DropoutStream()))


@pytest.mark.parametrize("head_layers", [0, 1, 2, 3])
def test_head_parameters_are_those_of_the_head(head_layers: int) -> None:
    config = plain(head_layers=head_layers)
    for outputs in (config.hidden_size, 7) if head_layers else (config.hidden_size,):
        found = linear_layers(config.head_widths(outputs))
        assert names_and_shapes(found) == described(MaskedHead(config, Init(1), outputs))


@pytest.mark.parametrize("positions", ["absolute", "relative"])
@pytest.mark.parametrize("vocab_size", [100, 128, 129])
def test_num_frontend_parameters_leaves_out_the_rows_that_pad_the_table(parallel: Parallel, positions: str, vocab_size: int) -> None:
    config, encoder = TextFrontendConfig(vocab_size=vocab_size, max_positions=10, positions=positions), plain()  # type: ignore[arg-type]
    frontend, shapes = TextFrontend(config, encoder, Init(1), parallel, DropoutStream()), config.parameters(encoder)
    assert names_and_shapes(shapes) == described(frontend)
    padding = (config.padded_vocab_size - vocab_size) * encoder.hidden_size
    assert count_parameters(shapes) == sum(p.numel() for p in frontend.parameters()) - padding


@pytest.mark.parametrize("normalize_before", [False, True])
def test_forward_flops_equal_torchs_count(parallel: Parallel, normalize_before: bool) -> None:
    B, S = 3, 7
    config = plain(num_layers=3, normalize_before=normalize_before)
    encoder = Encoder(config, Init(1), parallel, DropoutStream())
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        encoder(torch.zeros(B, S, config.hidden_size), None, None, keep_from=3)
    assert B * sum(config.forward_flops(S).values()) == counter.get_total_flops()
    assert B * config.forward_flops(S)["attention"] == counter.get_flop_counts()["Global"][torch.ops.aten.bmm]


def test_embedding_look_ups_cost_no_flops() -> None:
    assert TextFrontendConfig().forward_flops(EncoderConfig(), 10_000).forward == 0


@pytest.mark.parametrize("num_positions", [1, 3, 7, 64, 512])
@pytest.mark.parametrize(
    "config",
    [
        TokenMaskConfig(),
        TokenMaskConfig(prob=0.9, length=5, loss_on_all_selected=True, leave_unmasked_prob=0.3),
        TokenMaskConfig(prob=0.15, length=1, leave_unmasked_prob=0.1, random_token_prob=0.1),
    ],
)
def test_the_expected_share_of_masked_tokens_is_the_mean_of_real_masks(config: TokenMaskConfig, num_positions: int) -> None:
    rng, tokens_T = np.random.default_rng(0), np.full(num_positions, 5)
    shares = [token_mask(tokens_T, config, rng, vocab_size=50)[1].mean() for _ in range(1500)]
    assert config.expected_share(num_positions) == pytest.approx(np.mean(shares), abs=4 * np.std(shares) / 1500**0.5 + 1e-9)


@pytest.mark.parametrize("num_positions", [1, 5, 12, 20, 99, 999])
@pytest.mark.parametrize("config", [SpanMaskConfig(), SpanMaskConfig(prob=0.1, length=5, min_masks=3), SpanMaskConfig(prob=1.0, length=2)])
def test_the_expected_share_of_masked_frames_is_the_mean_of_real_masks(config: SpanMaskConfig, num_positions: int) -> None:
    rng = np.random.default_rng(0)
    shares = [span_mask(num_positions, config, rng).mean() for _ in range(1500)]
    assert config.expected_share(num_positions) == pytest.approx(np.mean(shares), abs=4 * np.std(shares) / 1500**0.5 + 1e-9)


def test_the_expected_share_of_masked_patches_is_that_of_real_masks_within_1_percent() -> None:
    rng, config = np.random.default_rng(0), BlockMaskConfig()
    assert config.expected_share(196) == pytest.approx(np.mean([block_mask(14, config, rng) for _ in range(300)]), rel=0.01)
    assert MaskConfig().expected_share(9) == 1.0, "a mask without an estimate of its own"


def test_base_has_the_published_size() -> None:
    """12 blocks of 768 / 3072: 7,087,872 each, as in BERT Base."""
    assert count_parameters(EncoderConfig().parameters) == 12 * 7_087_872 == 85_054_464


def test_defaults_are_the_published_text_settings() -> None:
    encoder, teacher, mask, loss = EncoderConfig(), TeacherConfig(), TokenMaskConfig(), LossConfig()
    assert (encoder.num_layers, encoder.hidden_size, encoder.ffn_hidden_size, encoder.num_attention_heads) == (12, 768, 3072, 12)
    assert (encoder.hidden_dropout, encoder.attention_dropout, encoder.activation_dropout) == (0.1, 0.1, 0.0)
    block = encoder.block
    assert (block.normalize_before, encoder.activation, block.layernorm_epsilon, encoder.head_layers) == (False, "gelu", 1e-5, 2)
    assert (block.key_bias, block.layer_scale, block.drop_path, block.layerdrop) == (True, None, 0.0, 0.0)
    assert (teacher.ema_decay, teacher.ema_end_decay, teacher.ema_anneal_end_step) == (0.999, 0.9999, 300_000)
    assert (teacher.average_top_k_layers, teacher.target, teacher.layer_norms, teacher.average_norms) == (10, "ffn", ("layer",), ())
    assert teacher.shares == "frontend"
    assert (mask.prob, mask.length, mask.loss_on_all_selected) == (0.35, 4, False)
    assert (loss.beta, loss.scale, loss.channels) == (4.0, 1.0, "sum")


def test_defaults_of_the_other_masks_are_the_published_ones() -> None:
    """data2vec_audio.py with base_librispeech.yaml; beit/README.md."""
    assert SpanMaskConfig() == SpanMaskConfig(prob=0.65, length=10, min_masks=1)
    assert BlockMaskConfig() == BlockMaskConfig(num_patches=120, min_block=16, max_block=196, min_aspect=0.3)


@pytest.mark.parametrize(("head_layers", "widths"), [(0, [16]), (1, [16, 16]), (2, [16, 32, 16]), (3, [16, 32, 32, 16])])
def test_head_widths_run_from_input_to_output(head_layers: int, widths: list[int]) -> None:
    assert plain(head_layers=head_layers).head_widths(16) == widths
    assert plain(head_layers=head_layers).head_widths(5) == ([*widths[:-1], 5] if head_layers else widths)


@pytest.mark.parametrize(
    "section", [EncoderConfig(), BlockConfig(), TextFrontendConfig(), TokenMaskConfig(), TeacherConfig(), LossConfig()]
)
def test_settings_cannot_be_changed_in_place(section: object) -> None:
    name = dataclasses.fields(section)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(section, name, 1)


SPEECH_EMA = TeacherConfig(ema_decay=0.999, ema_end_decay=0.9999, ema_anneal_end_step=30_000)
TEXT_EMA = TeacherConfig(ema_decay=0.999, ema_end_decay=0.9999, ema_anneal_end_step=300_000)


@pytest.mark.parametrize(
    ("config", "updates", "decay"),
    [
        (SPEECH_EMA, 0, 0.999),
        (SPEECH_EMA, 15_000, 0.99945),
        (SPEECH_EMA, 30_000, 0.9999),
        (SPEECH_EMA, 400_000, 0.9999),
        (TEXT_EMA, 150_000, 0.99945),
        (TEXT_EMA, 300_000, 0.9999),
        (TeacherConfig(ema_decay=0.5, ema_end_decay=0.9, ema_anneal_end_step=0), 0, 0.9),
    ],
)
def test_the_ema_decay_is_linear_and_then_constant_as_fairseqs(config: TeacherConfig, updates: int, decay: float) -> None:
    assert config.decay_after(updates) == pytest.approx(decay, rel=1e-12)
