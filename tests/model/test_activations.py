"""The table of a block's activations: what devices, precision, dropout and tensor parallelism change. The sums are compared with measured
bytes in tests/recipes/plan/test_activations.py."""

from dataclasses import replace

import pytest

from model.activations import Storage, block_backward_bytes, block_bytes, block_forward_bytes, extractor_bytes
from model.config import BlockConfig, EncoderConfig

D, F, H, S = 64, 256, 4, 32
PLAIN = EncoderConfig(hidden_size=D, ffn_hidden_size=F, num_attention_heads=H, hidden_dropout=0.0, attention_dropout=0.0)
ON_GPU, ON_CPU = Storage(2, on_gpu=True), Storage(4, on_gpu=False)


def kept(config: EncoderConfig, storage: Storage, has_bias: bool = False) -> float:
    return sum(block_bytes(config, storage, S, has_bias).values())


def test_a_block_without_dropout_keeps_eight_widths_and_both_sides_of_the_activation() -> None:
    """Korthikanti et al. 2022, section 4.1, without their masks and without the probabilities, which flash attention does not keep."""
    statistics = 16 + 4 * H
    assert kept(PLAIN, ON_CPU) == 4 * (8 * D + 2 * F) + statistics
    assert kept(PLAIN, ON_GPU) == 2 * (8 * D + 2 * F) + statistics


def test_a_dropout_mask_is_a_byte_on_a_gpu_and_a_number_on_the_cpu() -> None:
    masked = replace(PLAIN, hidden_dropout=0.1)
    assert kept(masked, ON_GPU) - kept(PLAIN, ON_GPU) == 2 * D
    assert kept(masked, ON_CPU) - kept(PLAIN, ON_CPU) == 2 * D * 4


def test_probabilities_are_kept_on_the_cpu_only_and_grow_with_the_sequence() -> None:
    dropped = replace(PLAIN, attention_dropout=0.1)
    assert kept(dropped, ON_GPU) == kept(PLAIN, ON_GPU) == kept(PLAIN, ON_GPU, has_bias=True)
    own_kernel = 4 * (H * S + D) - 4 * H  # probabilities and a second copy of the output; no sums of the softmax
    assert kept(dropped, ON_CPU) - kept(PLAIN, ON_CPU) == own_kernel
    assert kept(PLAIN, ON_CPU, has_bias=True) - kept(PLAIN, ON_CPU) == own_kernel


def test_tensor_parallelism_splits_the_inner_tensors_alone() -> None:
    whole, half = block_bytes(PLAIN, ON_GPU, S, False), block_bytes(PLAIN, replace(ON_GPU, tp_size=2), S, False)
    split = {name for name in whole if half[name] == whole[name] / 2 > 0}
    assert split == {
        "queries, keys, values",
        "output of the attention, input of proj",
        "logarithms of the softmax's sums",
        "output of fc1",
        "output of the activation",
    }
    assert all(half[name] == whole[name] for name in whole.keys() - split)


@pytest.mark.parametrize(("activation", "dropout", "widths"), [("gelu", 0.0, 2), ("relu", 0.0, 1), ("gelu", 0.1, 3), ("relu", 0.1, 3)])
def test_the_inner_layer_keeps_what_its_activation_and_dropout_read(activation: str, dropout: float, widths: int) -> None:
    config = replace(PLAIN, activation=activation, activation_dropout=dropout)  # type: ignore[arg-type]
    assert kept(config, ON_CPU) - kept(PLAIN, ON_CPU) == (widths - 2) * F * 4


def test_a_layer_scale_keeps_the_input_of_both_branches() -> None:
    scaled = replace(PLAIN, block=BlockConfig(layer_scale=1.0))
    assert kept(scaled, ON_GPU) - kept(PLAIN, ON_GPU) == 2 * D * 2


def test_the_gradient_of_a_learned_bias_is_made_for_every_sample_on_a_gpu() -> None:
    with_bias, without = (sum(block_backward_bytes(PLAIN, ON_GPU, S, bias).values()) for bias in (True, False))
    assert with_bias - without == 2 * H * S
    assert without == 2 * (2 * D + F)
    assert sum(block_forward_bytes(PLAIN, ON_GPU).values()) == 2 * (5 * D + 2 * F)


def test_the_extractor_keeps_three_tensors_of_each_normed_convolution() -> None:
    assert sum(extractor_bytes(8, [4, 2, 1], ON_CPU, norm="layer", has_exact_norm=False).values()) == 4 * 8 * (7 + 7 + 6)
    assert sum(extractor_bytes(8, [4, 2, 1], ON_GPU, norm="group", has_exact_norm=False).values()) == 2 * 8 * (7 + 4 + 6)
    assert sum(extractor_bytes(8, [4, 2, 1], ON_GPU, norm="group", has_exact_norm=True).values()) == 2 * 8 * 17 + 3 * 8 * 4 * 4
    in_16_bits = replace(ON_CPU, value_bytes=2)
    assert sum(extractor_bytes(8, [4, 2, 1], in_16_bits, norm="layer", has_exact_norm=False).values()) == 2 * 8 * (2 * 7 + 7 + 6)


def test_a_subset_of_the_positions_shrinks_what_is_kept_behind_the_attention() -> None:
    whole, some = block_bytes(PLAIN, ON_CPU, S, False), block_bytes(PLAIN, ON_CPU, S, False, share=0.25)
    same = {name for name in whole if some[name] == whole[name] > 0}
    assert same == {"input of the block", "queries, keys, values", "logarithms of the softmax's sums"}
    assert all(some[name] == whole[name] / 4 for name in whole.keys() - same)
