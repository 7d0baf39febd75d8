"""The vision front-end: parity with a reference in plain torch, CLS, bias, given features, initial values, and ZeRO-3."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.config import EncoderConfig
from model.dropout import DropoutStream
from model.frontends.config import VisionFrontendConfig
from model.frontends.pixels import normalise
from model.frontends.vision import VisionFrontend
from model.init import Init
from model.parallel import Parallel, init_parallel
from tests.distributed import run_distributed
from tests.model.frontends.reference import reference_vision
from tests.model.frontends.sharded import compare_with_whole
from tests.model.reference import PLAIN, described, names_and_shapes, plain, stir

VISION = VisionFrontendConfig(image_size=12, patch_size=4)
TOLERANCE = 1e-5

PIXELS_BCHW = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(3))
MASK_BN = torch.rand(2, 9, generator=torch.Generator().manual_seed(4)) < 0.5


def build(parallel: Parallel, encoder: EncoderConfig = PLAIN, **changes: Any) -> VisionFrontend:
    frontend = VisionFrontend(replace(VISION, **changes), encoder, Init(1), parallel, DropoutStream())
    stir(frontend)
    return frontend


def weights(frontend: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in frontend.named_parameters()}


@pytest.mark.parametrize("is_masked", [False, True], ids=["clean", "masked"])
@pytest.mark.parametrize("changes", [{}, {"num_channels": 1, "patch_size": 3}, {"patch_size": 6}])
def test_output_and_features_equal_the_published_architectures_within_1e_5(
    parallel: Parallel, changes: dict[str, int], is_masked: bool
) -> None:
    config = replace(VISION, **changes)
    frontend = build(parallel, **changes)
    pixels_BCHW = PIXELS_BCHW[:, : config.num_channels]
    mask_BN = torch.rand(2, config.grid**2, generator=torch.Generator().manual_seed(5)) < 0.5 if is_masked else None
    output = frontend(pixels_BCHW, mask_BN, None)
    x_BSD, features_BND = reference_vision(weights(frontend), pixels_BCHW, config, mask_BN=mask_BN)
    assert output.x_BSD.shape == (2, config.grid**2 + frontend.num_prefix_tokens, 16)
    torch.testing.assert_close(output.x_BSD, x_BSD, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(output.features_BND, features_BND, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_read_as_the_normalised_pixels_that_they_stand_for(parallel: Parallel, dtype: torch.dtype) -> None:
    frontend = build(parallel).to(dtype)
    bytes_BCHW = torch.randint(0, 256, PIXELS_BCHW.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(6))
    read, normalised = frontend(bytes_BCHW, MASK_BN, None), frontend(normalise(bytes_BCHW), MASK_BN, None)
    torch.testing.assert_close(read.x_BSD, normalised.x_BSD, atol=0, rtol=0)
    torch.testing.assert_close(read.features_BND, normalised.features_BND, atol=0, rtol=0)


def test_cls_is_never_masked(parallel: Parallel) -> None:
    frontend = build(parallel)
    x_BSD = frontend(PIXELS_BCHW, torch.ones(2, 9, dtype=torch.bool), None).x_BSD
    torch.testing.assert_close(x_BSD[:, 0], frontend.cls_vector.expand(2, -1), atol=0, rtol=0)
    torch.testing.assert_close(x_BSD[:, 1:], frontend.mask_vector.expand(2, 9, -1), atol=0, rtol=0)


def test_shared_bias_is_one_table_for_all_blocks(parallel: Parallel) -> None:
    frontend = build(parallel)
    bias_LHSS = frontend(PIXELS_BCHW, None, None).bias_LHSS
    assert bias_LHSS.shape == (1, 4, 10, 10)
    torch.testing.assert_close(bias_LHSS[0], frontend.relative_bias(), atol=0, rtol=0)  # type: ignore[misc]
    assert "relative_bias.weight" in weights(frontend)


def test_per_layer_bias_has_a_table_for_each_block(parallel: Parallel) -> None:
    frontend = build(parallel, plain(num_layers=3), relative_bias="per_layer")
    bias_LHSS = frontend(PIXELS_BCHW, None, None).bias_LHSS
    assert bias_LHSS.shape == (3, 4, 10, 10)
    for i in range(3):
        table_HR = weights(frontend)[f"relative_bias.{i}.weight"]
        torch.testing.assert_close(bias_LHSS[i, :, 1, 1], table_HR[:, 12], atol=0, rtol=0)  # offset (0, 0) of 5 x 5
        torch.testing.assert_close(bias_LHSS[i, :, 0, 0], table_HR[:, -1], atol=0, rtol=0)


def test_no_bias_if_the_settings_have_none(parallel: Parallel) -> None:
    frontend = build(parallel, relative_bias="none")
    assert frontend(PIXELS_BCHW, None, None).bias_LHSS is None
    assert not [name for name in weights(frontend) if "bias" in name and name != "patches.bias"]


def test_images_have_no_padding(parallel: Parallel) -> None:
    with pytest.raises(AssertionError):
        build(parallel)(PIXELS_BCHW, None, torch.zeros(2, 9, dtype=torch.bool))


def test_features_are_detached_and_come_before_mask_and_cls(parallel: Parallel) -> None:
    frontend = build(parallel)
    masked, clean = frontend(PIXELS_BCHW, MASK_BN, None), frontend(PIXELS_BCHW, None, None)
    assert masked.x_BSD.requires_grad and not masked.features_BND.requires_grad
    torch.testing.assert_close(masked.features_BND, clean.features_BND, atol=0, rtol=0)
    torch.testing.assert_close(masked.features_BND, clean.x_BSD[:, 1:], atol=0, rtol=0)


def test_given_features_replace_the_pixels(parallel: Parallel) -> None:
    frontend = build(parallel)
    features_BND = frontend(PIXELS_BCHW, MASK_BN, None).features_BND
    read, computed = frontend(torch.full_like(PIXELS_BCHW, torch.nan), MASK_BN, None, features_BND), frontend(PIXELS_BCHW, MASK_BN, None)
    torch.testing.assert_close(read.x_BSD, computed.x_BSD, atol=0, rtol=0)
    torch.testing.assert_close(read.features_BND, features_BND, atol=0, rtol=0)
    (read.x_BSD.sum() + read.bias_LHSS.sum()).backward()
    assert {n for n, p in frontend.named_parameters() if p.grad is not None} == {"cls_vector", "mask_vector", "relative_bias.weight"}


@pytest.mark.parametrize("relative_bias", ["shared", "per_layer", "none"])
def test_every_parameter_gets_a_gradient(parallel: Parallel, relative_bias: str) -> None:
    frontend = build(parallel, relative_bias=relative_bias)
    output = frontend(PIXELS_BCHW, MASK_BN, None)
    (output.x_BSD.square().sum() + (0 if output.bias_LHSS is None else output.bias_LHSS.sum())).backward()
    assert not [n for n, p in frontend.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("relative_bias", ["shared", "per_layer"])
def test_the_weights_determine_the_dtype_of_all_outputs(parallel: Parallel, relative_bias: str) -> None:
    frontend = build(parallel, relative_bias=relative_bias).bfloat16()
    output = frontend(PIXELS_BCHW, MASK_BN, None)
    assert {part.dtype for part in output if part is not None} == {torch.bfloat16}
    assert frontend(PIXELS_BCHW, None, None, output.features_BND.float()).x_BSD.dtype == torch.bfloat16


@pytest.mark.parametrize("relative_bias", ["shared", "per_layer", "none"])
def test_shared_parameters_are_all_but_the_bias(parallel: Parallel, relative_bias: str) -> None:
    frontend = build(parallel, relative_bias=relative_bias)
    assert frontend.shared_parameters("nothing") == set()
    embedding = {"patches.weight", "patches.bias", "cls_vector", "mask_vector"}
    assert frontend.shared_parameters("features") == frontend.shared_parameters("frontend") == embedding


@pytest.mark.parametrize("relative_bias", ["shared", "per_layer", "none"])
def test_the_parameters_are_those_of_the_settings(parallel: Parallel, relative_bias: str) -> None:
    encoder = plain(num_layers=3, hidden_size=24)
    frontend = build(parallel, encoder, relative_bias=relative_bias, num_channels=2)
    expected = replace(VISION, relative_bias=relative_bias, num_channels=2).parameters(encoder)
    assert described(frontend) == names_and_shapes(expected)
    assert not list(frontend.buffers()) and frontend.num_prefix_tokens == VisionFrontendConfig.num_prefix_tokens == 1


@pytest.mark.parametrize("init_std", [0.02, 0.05, None])
def test_initial_values_are_truncated_at_their_std_and_biases_are_0(parallel: Parallel, init_std: float | None) -> None:
    """The std of a normal distribution cut at one std is 0.5396 of it."""
    encoder = plain(hidden_size=256, init_std=init_std)
    frontend = VisionFrontend(VISION, encoder, Init(1), parallel, DropoutStream())
    started = weights(frontend)
    assert not started["patches.bias"].any() and not started["relative_bias.weight"].any()
    for name in ("patches.weight", "cls_vector", "mask_vector"):
        fallback = 1 / math.sqrt(3 * 4 * 4) if name == "patches.weight" else 0.02
        std, tensor = init_std or fallback, started[name]
        assert 0.95 * std < float(tensor.abs().max()) <= std, name
        assert float(tensor.std()) == pytest.approx(0.5396 * std, rel=4 / math.sqrt(2 * tensor.numel())), name
    assert not torch.equal(started["cls_vector"], started["mask_vector"])


def under_tp() -> tuple[int, Tensor, Tensor, set[str]]:
    parallel = init_parallel(2, "cpu")
    frontend = VisionFrontend(VISION, PLAIN, Init(1), parallel, DropoutStream())
    split = {name for name, p in frontend.named_parameters() if getattr(p, "tensor_model_parallel", False)}
    output = frontend(PIXELS_BCHW, MASK_BN, None)
    return parallel.tp_rank, output.x_BSD.detach(), output.bias_LHSS.detach(), split


def test_tp_splits_the_heads_of_the_bias_and_nothing_else(parallel: Parallel) -> None:
    whole = VisionFrontend(VISION, PLAIN, Init(1), parallel, DropoutStream())(PIXELS_BCHW, MASK_BN, None)
    for _, x_BSD, bias_LHSS, split in run_distributed(under_tp, 2):
        torch.testing.assert_close(x_BSD, whole.x_BSD, atol=0, rtol=0)
        assert bias_LHSS.shape == (1, 2, 10, 10) and split == {"relative_bias.weight"}


def compare_under_zero(relative_bias: str) -> dict[str, float]:
    config = replace(VISION, relative_bias=relative_bias)
    return compare_with_whole(partial(VisionFrontend, config, PLAIN), [PIXELS_BCHW, MASK_BN, None])


@pytest.mark.parametrize("relative_bias", ["shared", "per_layer"])
def test_zero_3_on_two_ranks_has_the_values_and_outputs_of_one_rank(relative_bias: str) -> None:
    for seen in run_distributed(compare_under_zero, 2, relative_bias):
        assert {name for name, difference in seen.items() if name.startswith("first") and difference} == set()
        assert {name: difference for name, difference in seen.items() if difference > TOLERANCE} == {}
