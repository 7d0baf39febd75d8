"""Bytes of the activations of the Transformer blocks and of speech's extractor, tensor by tensor. Torch-free arithmetic, which changes with
model/layers.py and model/frontends/speech.py. Front-ends: model/frontends/config.py. The sum: recipes/plan/activations.py.

All numbers are bytes for each position (for the extractor: for each frame) and rank. D hidden, F ffn, H heads, S sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.config import EncoderConfig

STATISTIC_BYTES = 4
"""Bytes of a statistic that LayerNorm and attention keep, such as a mean: float32."""
TensorBytes = dict[str, float]
"""Name of a tensor -> its bytes for each position (or for each micro-batch, where a function says so)."""


@dataclass(frozen=True)
class Storage:
    """How a rank stores activations: bytes of one number in the type of the forward, whether the device is a GPU, and over how many ranks
    a block's inner tensors are split (the TP size)."""

    value_bytes: int
    on_gpu: bool
    tp_size: int = 1

    @property
    def mask_bytes(self) -> int:
        """Bytes of one number of a dropout mask: bool on a GPU, on the CPU the type of the forward."""
        return 1 if self.on_gpu else self.value_bytes

    @property
    def norm_bytes(self) -> int:
        """Bytes of one number of a LayerNorm's input: on a CPU norms compute in float32 (model/sums.py)."""
        return self.value_bytes if self.on_gpu else 4

    def stores_probabilities(self, config: EncoderConfig, has_bias: bool) -> bool:
        """True if the attention keeps the probabilities of all pairs of positions for the backward: on a CPU with dropout or a learned
        bias (`has_bias`), as model/attention.py says."""
        return not self.on_gpu and (config.attention_dropout > 0 or has_bias)


def block_bytes(config: EncoderConfig, storage: Storage, sequence_length: int, has_bias: bool, share: float = 1.0) -> TensorBytes:
    """Return what one block keeps for its backward. `has_bias`: a learned bias is added to the attention logits. `share`: of the
    positions, those whose output is computed (model/subset.py)."""
    D, value, mask, block = config.hidden_size, storage.value_bytes, storage.mask_bytes, config.block
    # LayerNorm keeps its input, and the linear layer after it keeps its output. Post-LN: the block's input is the output of a norm.
    before = {
        "input of the block": D * (storage.norm_bytes if block.normalize_before else value),
        **({"input of qkv": D * value} if block.normalize_before else {}),
    }
    after = {
        "output of the attention, input of proj": D / storage.tp_size * value,
        "dropout mask after proj": D * mask * (config.hidden_dropout > 0),
        "input of the scale after proj": D * value * (block.layer_scale is not None),
        "sum after the attention": D * storage.norm_bytes,
        "input of fc1": D * value,
        "dropout mask after fc2": D * mask * (config.hidden_dropout > 0),
        "input of the scale after fc2": D * value * (block.layer_scale is not None),
        **({} if block.normalize_before else {"sum after fc2": D * storage.norm_bytes}),
        "mean and deviation of both norms": 4 * STATISTIC_BYTES,
    }
    chosen = {name: share * size for name, size in (after | _inner_bytes(config, storage)).items()}
    return before | _attention_bytes(config, storage, sequence_length, has_bias) | chosen


def _attention_bytes(config: EncoderConfig, storage: Storage, sequence_length: int, has_bias: bool) -> TensorBytes:
    D, value, tp = config.hidden_size, storage.value_bytes, storage.tp_size
    if not storage.stores_probabilities(config, has_bias):
        heads = config.num_attention_heads / tp
        return {"queries, keys, values": 3 * D / tp * value, "logarithms of the softmax's sums": heads * STATISTIC_BYTES}
    return {
        "queries, keys, values, head by head": 3 * D / tp * value,
        "probabilities, with the dropout mask in their signs": config.num_attention_heads / tp * sequence_length * value,
        "output of the attention, head by head": D / tp * value,
    }


def _inner_bytes(config: EncoderConfig, storage: Storage) -> TensorBytes:
    F, value, drops = config.ffn_hidden_size / storage.tp_size, storage.value_bytes, config.activation_dropout > 0
    keeps_input = config.activation == "gelu"  # the derivative of ReLU is read off its output
    return {
        "output of fc1": F * value * keeps_input,
        "output of the activation": F * value * (not (drops and keeps_input)),
        "dropout mask of the activation": F * storage.mask_bytes * drops,
        "input of fc2 after dropout": F * value * drops,
    }


def block_forward_bytes(config: EncoderConfig, storage: Storage) -> TensorBytes:
    """Return what is alive in the forward of one block without gradient, at its largest: beside the second matrix of the FFN."""
    D, F, value = config.hidden_size, config.ffn_hidden_size / storage.tp_size, storage.value_bytes
    return {
        "input of the block": D * value,
        "output of proj": D * value,
        "input of fc1": D * value,
        "sum after the attention": D * value * config.block.normalize_before,
        "output of fc1": F * value,
        "output of the activation": F * value,
        "output of fc2, without and with bias": 2 * D * value,
    }


def block_backward_bytes(config: EncoderConfig, storage: Storage, sequence_length: int, has_bias: bool) -> TensorBytes:
    """Return the gradients that are alive in the backward of one block, at their largest, while the block still has all that it keeps."""
    D, F, value = config.hidden_size, config.ffn_hidden_size / storage.tp_size, storage.value_bytes
    pairs = config.num_attention_heads / storage.tp_size * sequence_length
    return {
        "gradients of the block's output and of the sum": 2 * D * value,
        # fc2's backward frees its input before the backward of the activation makes its own result
        "gradient of the activation": F * value,
        # the kernel that adds a learned bias returns its gradient for every sample
        "gradient of the attention bias": pairs * value * (has_bias and storage.on_gpu),
    }


def extractor_bytes(channels: int, rates: Sequence[int], storage: Storage, *, norm: str, has_exact_norm: bool) -> TensorBytes:
    """Return what the strided convolutions of speech keep. `rates`: outputs of each convolution for one frame. `norm`: "layer" if each
    has a LayerNorm, "group" if the first has a norm over time. `has_exact_norm`: that norm takes its statistics over a recording's own
    samples."""
    outputs, value = channels * sum(rates), storage.value_bytes
    read_by_norm = storage.norm_bytes if norm == "layer" else value
    return {
        "outputs of the strided convolutions, input of norm or GELU": outputs * read_by_norm,
        "outputs of the extractor's norms, input of GELU": (outputs if norm == "layer" else channels * rates[0]) * value,
        "inputs of the strided convolutions but the first": (outputs - channels * rates[-1]) * value,
        "the exact norm's centred values, their squares' input and quotient": 3 * channels * rates[0] * 4 * has_exact_norm,  # float32
    }
