"""The trunk: arguments of front-end and encoder, outputs that it drops, the selection between them, and samples in padded batches."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.batch import Segments
from model.config import EncoderConfig
from model.dropout import DropoutStream
from model.frontends.output import FrontendOutput
from model.frontends.speech import SpeechFrontend
from model.frontends.speech_config import SpeechFrontendConfig
from model.frontends.text import PAD
from model.init import Init
from model.parallel import Parallel
from model.trunk import EncoderInput, SelectAll, Trunk
from tests.model.reference import PLAIN, VISION, bools, build_student, build_vision_student, plain, stir, text_frontend, vision_batch

PATCHES_BN = bools("110000000", "000010001")


def test_trunk_passes_mask_and_padding_to_front_end_and_encoder(parallel: Parallel) -> None:
    trunk: Trunk = build_student(parallel).trunk
    padding_BS = bools("0011")
    ids_BS = torch.tensor([[5, 6, PAD, PAD]])
    padded = trunk(ids_BS, None, padding_BS, keep_from=1)
    short = trunk(ids_BS[:, :2], None, None, keep_from=1)
    assert len(padded.layers) == 1 and padded.features_BND is None
    torch.testing.assert_close(padded.x_BND[:, :2], short.x_BND, atol=1e-5, rtol=1e-5)


def test_prefix_tokens_are_attended_to_and_then_dropped(parallel: Parallel) -> None:
    """Nine patches behind a CLS vector: ten positions in the encoder, nine in every output."""
    student, batch = build_vision_student(parallel), vision_batch(PATCHES_BN)
    stir(student)
    seen = []
    student.trunk.encoder.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    out = student.trunk(batch.inputs, PATCHES_BN, None, keep_from=0)
    (entered_BSD, (whole_BSD, layers)), N = seen[0], VISION.grid**2
    assert entered_BSD.shape == (2, N + 1, 16) and out.x_BND.shape == (2, N, 16) and len(out.layers) == 2
    torch.testing.assert_close(out.x_BND, whole_BSD[:, 1:], atol=0, rtol=0)
    for own, layer in zip(out.layers, layers, strict=True):
        torch.testing.assert_close(own.ffn_SBD, layer.ffn_SBD[1:], atol=0, rtol=0)
        torch.testing.assert_close(own.block_SBD, layer.block_SBD[1:], atol=0, rtol=0)
    torch.testing.assert_close(student(batch).prediction_MD, student.head(out.x_BND)[PATCHES_BN])
    student.trunk.frontend.cls_vector.data += 1.0
    assert not torch.allclose(student.trunk(batch.inputs, PATCHES_BN, None, keep_from=2).x_BND, out.x_BND), "the patches attend to it"


def test_a_trunk_uses_given_features_in_place_of_inputs(parallel: Parallel) -> None:
    trunk, batch = build_vision_student(parallel).trunk, vision_batch(PATCHES_BN)
    features_BND = trunk.frontend(batch.inputs, None, None).features_BND
    expected_BND = trunk(batch.inputs, None, None, keep_from=2).x_BND
    read_BND = trunk(torch.full_like(batch.inputs, torch.nan), None, None, keep_from=2, features_BND=features_BND).x_BND
    torch.testing.assert_close(read_BND, expected_BND, atol=0, rtol=0)


class Reversed(nn.Module):
    """A selection that reverses the tokens and records its masks."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[tuple[Tensor | None, Tensor | None]] = []

    def forward(self, front: FrontendOutput, mask_BN: Tensor | None, padding_mask_BN: Tensor | None) -> EncoderInput:
        self.masks.append((mask_BN, padding_mask_BN))
        return EncoderInput(front.x_BSD.flip(1), None if padding_mask_BN is None else padding_mask_BN.flip(1), None)


def test_the_selection_module_determines_the_encoded_tokens(parallel: Parallel) -> None:
    reversing = Reversed()
    trunk = Trunk(PLAIN, text_frontend(), Init(1), parallel, DropoutStream(), select=reversing)
    plain_trunk = build_student(parallel).trunk
    ids_BS, mask_BS, padding_BS = torch.tensor([[5, 6, 7, PAD]]), bools("0100"), bools("0001")
    out = trunk(ids_BS, mask_BS, padding_BS, keep_from=0)
    assert [(id(mask), id(padding)) for mask, padding in reversing.masks] == [(id(mask_BS), id(padding_BS))]
    front = plain_trunk.frontend(ids_BS, mask_BS, padding_BS)
    expected_BSD, _ = plain_trunk.encoder(front.x_BSD.flip(1), padding_BS.flip(1), None, 0)
    torch.testing.assert_close(out.x_BND, expected_BSD, atol=0, rtol=0)
    assert not torch.allclose(out.x_BND, plain_trunk(ids_BS, mask_BS, padding_BS, keep_from=0).x_BND)


def test_every_embedded_token_is_encoded_by_default(parallel: Parallel) -> None:
    trunk, batch = build_vision_student(parallel).trunk, vision_batch(PATCHES_BN)
    assert isinstance(trunk.select, SelectAll) and not list(trunk.select.parameters())
    assert {name.partition(".")[0] for name, _ in trunk.named_parameters()} == {"frontend", "encoder"}
    front = trunk.frontend(batch.inputs, PATCHES_BN, None)
    padding_BS = bools("0000000001", "0000000000")
    chosen = SelectAll()(front, PATCHES_BN, padding_BS)
    assert chosen.x_BSD is front.x_BSD and chosen.padding_mask_BS is padding_BS and chosen.bias_LHSS is front.bias_LHSS is not None


def test_hidden_states_are_the_encoders_input_and_every_blocks_output_with_prefix_tokens(parallel: Parallel) -> None:
    student, batch = build_vision_student(parallel), vision_batch(PATCHES_BN)
    stir(student)
    trunk = student.trunk
    hidden = trunk.hidden_states(batch.inputs, None)
    front, out = trunk.frontend(batch.inputs, None, None), trunk(batch.inputs, None, None, keep_from=0)
    torch.testing.assert_close(hidden[0], front.x_BSD, atol=0, rtol=0)
    for own, layer in zip(hidden[1:], out.layers, strict=True):
        torch.testing.assert_close(own[:, 1:], layer.block_SBD.transpose(0, 1), atol=0, rtol=0)
    torch.testing.assert_close(trunk.encoder.final_norm(hidden[-1])[:, 1:], out.x_BND, atol=0, rtol=0)


LENGTHS = (12, 1, 5, 2)
SPEECH: dict[str, Any] = {"conv_dim": 8, "conv_kernels": (10, 3, 2), "conv_strides": (5, 2, 2), "pos_conv_kernel": 5, "pos_conv_groups": 4}
SAMPLES = (2400, 30, 411, 1000)
"""Raw samples of waveforms that give 119, 1, 20 and 49 frames; most end with samples that no frame reads."""
LAYER_NORM, GROUP_NORM = {"extractor_norm": "layer"}, {"extractor_norm": "group"}
EXACT_GROUP_NORM = {**GROUP_NORM, "exact_statistics": True}


def largest_differences(trunk: Trunk, inputs: Tensor, lengths: tuple[int, ...], padding_BS: Tensor) -> list[float]:
    """Return, for the encoder's input and each block's output, the largest difference between a sample in the padded batch and the same
    sample alone, over all samples, divided by the largest value of that output. `lengths`: of the samples, in their own units."""
    padded = trunk.hidden_states(inputs, padding_BS)
    worst = [0.0] * len(padded)
    for row, length in enumerate(lengths):
        alone, keep_S = trunk.hidden_states(inputs[row : row + 1, :length], None), ~padding_BS[row]
        found = [float(((long[row, keep_S] - short[0]) / long.abs().max()).abs().max()) for long, short in zip(padded, alone, strict=True)]
        worst = [max(pair) for pair in zip(worst, found, strict=True)]
    return worst


def check_exact(trunk: Trunk, inputs: Tensor, lengths: tuple[int, ...], padding_BS: Tensor) -> None:
    """Check that only rounding differs: in float32, and much less in float64."""
    assert max(largest_differences(trunk, inputs, lengths, padding_BS)) <= 1e-5
    assert max(largest_differences(trunk.double(), inputs, lengths, padding_BS)) <= 1e-13


@pytest.mark.parametrize("positions", ["absolute", "relative"])
@pytest.mark.parametrize("encoder", [PLAIN, plain(normalize_before=True)], ids=["post_ln", "pre_ln"])
def test_every_layer_of_a_text_is_the_same_alone_and_in_a_padded_batch_within_1e_5(
    parallel: Parallel, encoder: EncoderConfig, positions: str
) -> None:
    student = build_student(parallel, encoder, positions=positions)
    stir(student)
    padding_BS = torch.arange(max(LENGTHS)) >= torch.tensor(LENGTHS)[:, None]
    ids_BS = torch.randint(4, 19, padding_BS.shape, generator=torch.Generator().manual_seed(0)).masked_fill(padding_BS, PAD)
    check_exact(student.trunk, ids_BS, LENGTHS, padding_BS)


def speech_trunk(parallel: Parallel, encoder: EncoderConfig, **settings: Any) -> tuple[Trunk, Tensor, Tensor]:
    """Return a trunk, a batch of padded waveforms, and its padding mask."""
    config = SpeechFrontendConfig(**SPEECH, **settings)
    trunk = Trunk(encoder, partial(SpeechFrontend, config), Init(1), parallel, DropoutStream())
    stir(trunk)
    frames = torch.tensor([config.num_frames(length) for length in SAMPLES])
    padded_BT = torch.arange(max(SAMPLES)) >= torch.tensor(SAMPLES)[:, None]
    waves_BT = torch.randn(padded_BT.shape, generator=torch.Generator().manual_seed(0)).masked_fill(padded_BT, 0.0)
    return trunk, waves_BT, torch.arange(int(frames.max())) >= frames[:, None]


@pytest.mark.parametrize(
    "norm", [{"extractor_norm": "layer"}, {"extractor_norm": "group", "exact_statistics": True}], ids=["layer", "group"]
)
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("encoder", [PLAIN, plain(normalize_before=True)], ids=["post_ln", "pre_ln"])
def test_every_layer_of_a_recording_is_the_same_alone_and_in_a_padded_batch_within_1e_5_by_choice(
    parallel: Parallel, encoder: EncoderConfig, depth: int, norm: dict[str, Any]
) -> None:
    trunk, waves_BT, padding_BS = speech_trunk(parallel, encoder, exact_padding=True, pos_conv_depth=depth, **norm)
    check_exact(trunk, waves_BT, SAMPLES, padding_BS)


@pytest.mark.parametrize(
    "published", [{"exact_padding": False}, {"extractor_norm": "group", "exact_padding": True}], ids=["zeroed_once", "group"]
)
def test_padding_changes_recordings_as_published(parallel: Parallel, published: dict[str, Any]) -> None:
    trunk, waves_BT, padding_BS = speech_trunk(parallel, PLAIN, pos_conv_depth=3, **published)
    assert min(largest_differences(trunk, waves_BT, SAMPLES, padding_BS)) > 1e-3


def test_masked_channels_are_passed_to_the_front_end(parallel: Parallel) -> None:
    trunk, waves_BT, _ = speech_trunk(parallel, PLAIN)
    masked_BD = torch.rand(4, PLAIN.hidden_size, generator=torch.Generator().manual_seed(1)) < 0.5
    front = trunk.frontend(waves_BT, None, None, channel_mask_BD=masked_BD)
    expected_BSD, _ = trunk.encoder(front.x_BSD, None, None, 0)
    torch.testing.assert_close(trunk(waves_BT, None, None, 0, channel_mask_BD=masked_BD).x_BND, expected_BSD, atol=0, rtol=0)
    assert not torch.allclose(trunk(waves_BT, None, None, 0).x_BND, expected_BSD)


@pytest.mark.parametrize("positions", ["absolute", "relative"])
def test_texts_that_share_a_row_are_as_in_rows_of_their_own_within_1e_5(parallel: Parallel, positions: str) -> None:
    trunk: Trunk = build_student(parallel, positions=positions).trunk
    ids_BS, padding_BS = torch.tensor([[5, 6, 7, 8, 9, PAD]]), bools("000001")
    segments = Segments(torch.tensor([[0, 0, 0, 1, 1, -1]], dtype=torch.int32), torch.tensor([[0, 1, 2, 0, 1, 0]]))
    packed = trunk(ids_BS, None, padding_BS, keep_from=0, segments=segments)
    for own in (slice(0, 3), slice(3, 5)):
        alone = trunk(ids_BS[:, own], None, None, keep_from=0)
        torch.testing.assert_close(packed.x_BND[:, own], alone.x_BND, atol=1e-5, rtol=1e-5)
        for layer, expected in zip(packed.layers, alone.layers, strict=True):
            torch.testing.assert_close(layer.ffn_SBD[own], expected.ffn_SBD, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(trunk(ids_BS, None, padding_BS, keep_from=0).x_BND[:, 3:5], alone.x_BND, atol=1e-3)


def test_the_final_norm_can_be_skipped(parallel: Parallel) -> None:
    trunk: Trunk = build_student(parallel, plain(normalize_before=True)).trunk
    stir(trunk)
    ids_BS = torch.tensor([[5, 6, 7]])
    plain_BND = trunk(ids_BS, None, None, keep_from=2).x_BND
    trunk.encoder.skips_final_norm = True
    last_BND = trunk(ids_BS, None, None, keep_from=2).x_BND
    torch.testing.assert_close(last_BND, trunk.hidden_states(ids_BS, None)[-1], atol=0, rtol=0)
    torch.testing.assert_close(trunk.encoder.final_norm(last_BND), plain_BND)
