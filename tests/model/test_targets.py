"""Targets: every norm alone, the order of all norms compared with the description, and the block output that is used."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import Norm, TeacherConfig
from model.layers import LayerOutput
from model.targets import average_targets, normalize

EPS = 1e-5
cases = settings(max_examples=40, deadline=None)
sizes = st.tuples(st.integers(1, 3), st.integers(2, 7), st.integers(2, 9))
seeds = st.integers(0, 2**31)


def layer_outputs(B: int, S: int, D: int, K: int, seed: int, dtype: torch.dtype = torch.float32) -> list[LayerOutput]:
    """Return outputs with a different mean and scale in every layer and channel."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        spread, shift = 3 * torch.rand(D, generator=generator) + 0.1, 5 * torch.randn(D, generator=generator)
        return (torch.randn(S, B, D, generator=generator) * spread + shift).to(dtype)

    return [LayerOutput(draw(), draw()) for _ in range(K)]


def config(K: int = 1, layer: tuple[Norm, ...] = (), average: tuple[Norm, ...] = (), **changes: str) -> TeacherConfig:
    return replace(TeacherConfig(average_top_k_layers=K, layer_norms=layer, average_norms=average), **changes)  # type: ignore[arg-type]


def standardised(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Normalise to zero mean and unit biased variance over dims, in float64, without torch's norms."""
    x = x.double()
    variance = (x - x.mean(dims, keepdim=True)).square().mean(dims, keepdim=True)
    return (x - x.mean(dims, keepdim=True)) / (variance + EPS).sqrt()


DIMS = {"batch": (0, 1), "instance": (1,), "layer": (2,)}


def described_targets(outputs: list[LayerOutput], teacher: TeacherConfig) -> tuple[Tensor, float]:
    """Return the targets in the order of the description: batch norm -> instance norm -> layer norm per block -> mean -> layer norm
    -> instance norm; and the smallest variance that a norm divided by."""
    features, spreads = [], [1.0]

    def norm_over(x: Tensor, norm: str) -> Tensor:
        spreads.append(float(x.double().var(DIMS[norm], correction=0).min()))
        return standardised(x, DIMS[norm])

    for output in outputs:
        x_BSD = (output.ffn_SBD if teacher.target == "ffn" else output.block_SBD).permute(1, 0, 2)
        for norm in ("batch", "instance", "layer"):
            x_BSD = norm_over(x_BSD, norm) if norm in teacher.layer_norms else x_BSD
        features.append(x_BSD)
    average_BSD = torch.stack([f.double() for f in features]).mean(0)
    for norm in ("layer", "instance"):
        average_BSD = norm_over(average_BSD, norm) if norm in teacher.average_norms else average_BSD
    return average_BSD.float(), min(spreads)


subsets = st.lists(st.sampled_from(["batch", "instance", "layer"]), unique=True).map(tuple)
average_subsets = st.lists(st.sampled_from(["layer", "instance"]), unique=True).map(tuple)


@cases
@given(sizes, st.integers(1, 3), seeds, subsets, average_subsets, st.sampled_from(["ffn", "block"]))
def test_any_settings_follow_the_published_order(size, K, seed, layer, average, target) -> None:
    outputs = layer_outputs(*size, K, seed)
    teacher = config(K, layer, average, target=target)
    expected_BSD, smallest = described_targets(outputs, teacher)
    assume(smallest > 1e-2)  # a norm divides by the spread after the norm before; if that is near 0, rounding errors dominate
    torch.testing.assert_close(average_targets(outputs, teacher), expected_BSD, atol=1e-3, rtol=1e-3)


def test_order_of_the_norms_matters() -> None:
    """This shows that the test above can find a wrong order."""
    (output,) = layer_outputs(2, 6, 8, 1, 0)
    x_BSD = output.ffn_SBD.transpose(0, 1)
    published = average_targets([output], config(1, ("layer", "instance")))
    reverse = normalize(normalize(x_BSD, "layer"), "instance")
    torch.testing.assert_close(published, normalize(normalize(x_BSD, "instance"), "layer"))
    assert float((published - reverse).abs().max()) > 0.1


def assert_standard(x: Tensor, before: Tensor, dims: tuple[int, ...]) -> None:
    """Assert mean 0 and the variance var / (var + eps): 1 except for nearly constant input."""
    variance = before.double().var(dims, correction=0)
    assert float(x.mean(dims).abs().max()) < 1e-3
    torch.testing.assert_close(x.double().var(dims, correction=0), variance / (variance + EPS), atol=2e-3, rtol=2e-3)


@cases
@given(sizes, seeds)
def test_layer_norm_gives_every_vector_mean_0_and_variance_1(size, seed) -> None:
    outputs = layer_outputs(*size, 1, seed)
    assert_standard(average_targets(outputs, config(1, ("layer",))), outputs[0].ffn_SBD.transpose(0, 1), (2,))


@cases
@given(sizes, seeds)
def test_instance_norm_gives_every_channel_mean_0_and_std_1_over_time(size, seed) -> None:
    outputs = layer_outputs(*size, 1, seed)
    assert_standard(average_targets(outputs, config(1, ("instance",))), outputs[0].ffn_SBD.transpose(0, 1), (1,))


@cases
@given(sizes, seeds)
def test_batch_norm_gives_every_channel_mean_0_and_std_1_over_the_micro_batch(size, seed) -> None:
    outputs = layer_outputs(*size, 1, seed)
    assert_standard(average_targets(outputs, config(1, ("batch",))), outputs[0].ffn_SBD.transpose(0, 1), (0, 1))


@cases
@given(sizes, st.integers(1, 4), seeds, st.sampled_from(["layer", "instance"]))
def test_a_norm_after_the_average_makes_the_average_standard(size, K, seed, norm) -> None:
    outputs = layer_outputs(*size, K, seed)
    plain_BSD = average_targets(outputs, config(K))
    assert_standard(average_targets(outputs, config(K, average=(norm,))), plain_BSD, DIMS[norm])


@cases
@given(sizes, st.integers(1, 4), seeds, st.sampled_from(["layer", "instance", "batch"]))
def test_average_of_normed_layers_has_std_of_at_most_1(size, K, seed, norm) -> None:
    target_BSD = average_targets(layer_outputs(*size, K, seed), config(K, (norm,)))
    assert float(target_BSD.std(DIMS[norm], correction=0).max()) <= 1 + 1e-4


def test_without_norms_the_target_is_the_mean_of_the_layers() -> None:
    outputs = layer_outputs(2, 3, 4, 3, 0)
    expected_SBD = (outputs[0].ffn_SBD + outputs[1].ffn_SBD + outputs[2].ffn_SBD) / 3
    torch.testing.assert_close(average_targets(outputs, config(3)), expected_SBD.transpose(0, 1))


@pytest.mark.parametrize("target", ["ffn", "block"])
def test_targets_use_the_configured_output_and_not_the_other(target: str) -> None:
    (output,) = layer_outputs(2, 3, 4, 1, 0)
    expected_SBD = output.ffn_SBD if target == "ffn" else output.block_SBD
    torch.testing.assert_close(average_targets([output], config(1, target=target)), expected_SBD.transpose(0, 1), atol=0, rtol=0)


def test_targets_are_float32_and_normalised_in_float32() -> None:
    outputs = layer_outputs(2, 5, 8, 2, 0, torch.bfloat16)
    wide = [LayerOutput(o.ffn_SBD.float(), o.block_SBD.float()) for o in outputs]
    target_BSD = average_targets(outputs, config(2, ("layer",)))
    assert target_BSD.dtype == torch.float32
    torch.testing.assert_close(target_BSD, average_targets(wide, config(2, ("layer",))), atol=0, rtol=0)


def test_a_wrong_number_of_layers_is_refused() -> None:
    with pytest.raises(AssertionError):
        average_targets(layer_outputs(1, 2, 3, 2, 0), config(3))
