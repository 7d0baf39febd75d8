"""Recordings in padded batches: which frames of the front-end's output differ from those of the recording alone, as published and with the
settings that make them equal. All layers of a network: tests/model/test_trunk.py."""

import pytest
import torch
from torch import Tensor

from model.parallel import Parallel
from tests.model.frontends.test_speech import PADDING_BS, SPEECH, TOLERANCE, WAVES_BT, build


def padded_and_alone(parallel: Parallel, exact_padding: bool) -> tuple[Tensor, Tensor]:
    """Return the real frames of a padded sample, and of the same sample without padding."""
    frontend = build(parallel, exact_padding=exact_padding)
    num_samples = (14 - 1) * SPEECH.stride + SPEECH.receptive_field
    padded_BSD = frontend(WAVES_BT, None, PADDING_BS).x_BSD
    return padded_BSD[1, :14], frontend(WAVES_BT[1:, :num_samples], None, None).x_BSD[0]


def test_exact_padding_gives_real_frames_the_values_without_padding(parallel: Parallel) -> None:
    torch.testing.assert_close(*padded_and_alone(parallel, True), atol=TOLERANCE, rtol=0)


def test_published_padding_changes_only_the_frames_next_to_it(parallel: Parallel) -> None:
    """The second and the third convolution each read two frames of padding, on which the convolution before has written."""
    padded_SD, alone_SD = padded_and_alone(parallel, False)
    differs_S = ((padded_SD - alone_SD).abs() > 1e-4).any(dim=1)
    assert differs_S.tolist() == [False] * 10 + [True] * 4


@pytest.mark.parametrize("num_samples", [410, 400, 30])
def test_exact_statistics_are_those_of_the_samples_that_frames_read(parallel: Parallel, num_samples: int) -> None:
    """A waveform whose last sample is read by its last frame has the published output; more samples behind it change nothing."""
    frames = SPEECH.num_frames(num_samples)
    read_BT = WAVES_BT[:, : (frames - 1) * SPEECH.stride + SPEECH.receptive_field]
    published, exact = (build(parallel, extractor_norm="group", exact_statistics=choice) for choice in (False, True))
    expected_BSD = published(read_BT, None, None).x_BSD
    torch.testing.assert_close(exact(read_BT, None, None).x_BSD, expected_BSD, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(exact(WAVES_BT[:, :num_samples], None, None).x_BSD, expected_BSD, atol=TOLERANCE, rtol=0)


def test_exact_statistics_have_the_gradients_of_the_unpadded_waveform_within_1e_5(parallel: Parallel) -> None:
    gradients = []
    for number in range(2):
        frontend = build(parallel, extractor_norm="group", exact_statistics=True, exact_padding=True)
        short = WAVES_BT[1:, : 13 * SPEECH.stride + SPEECH.receptive_field]
        output = frontend(short, None, None) if number else frontend(WAVES_BT[1:], None, PADDING_BS[1:])
        output.x_BSD[:, :14].square().mean().backward()
        gradients.append({name: p.grad for name, p in frontend.named_parameters() if p.grad is not None})
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_exact_statistics_of_16_bit_numbers_are_computed_in_32_bits(parallel: Parallel) -> None:
    exact = build(parallel, extractor_norm="group", exact_statistics=True).bfloat16()
    published = build(parallel, extractor_norm="group").bfloat16()
    x_BTC = 8 + torch.randn(1, 5000, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    norms = (one.extractor.layers[0].norm for one in (exact, published))
    found, expected = (norm(x_BTC, *own) for norm, own in zip(norms, ([torch.tensor([5000])], []), strict=True))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)
