"""Small models for the tests of model/, and a reference of the same Transformer in plain torch, from the description of the
architecture (post-LN: h = LN1(x + MHA x), out = LN2(h + FFN h)). The reference uses only the settings of model/.

Shapes: B batch, S sequence, N patches, D hidden, H heads, K head width, L blocks.
"""

import math
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.batch import Batch, Masks
from model.config import BlockConfig, EncoderConfig
from model.dropout import DropoutStream
from model.frontends.config import TextFrontendConfig, VisionFrontendConfig
from model.frontends.text import TextFrontend
from model.frontends.vision import VisionFrontend
from model.init import Init
from model.parallel import Parallel
from model.shapes import ParameterShape
from model.student import Student
from model.trunk import FrontendBuilder

PLAIN = EncoderConfig(
    num_layers=2,
    hidden_size=16,
    ffn_hidden_size=24,
    num_attention_heads=4,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    init_std=None,
)
"""No dropout, and weights large enough to matter."""
TEXT = TextFrontendConfig(vocab_size=20, max_positions=12, embedding_init_std=0.5)
MASK_ID = TEXT.vocab_size - 1
VISION = VisionFrontendConfig(image_size=12, patch_size=4)
BLOCK_FIELDS = {item.name for item in fields(BlockConfig)}


def plain(**changes: Any) -> EncoderConfig:
    """Return PLAIN with changes. Settings of model.block are given by their own names."""
    inside = {name: changes.pop(name) for name in list(changes) if name in BLOCK_FIELDS}
    return replace(PLAIN, block=BlockConfig(**inside), **changes)


def text_frontend(**changes: Any) -> FrontendBuilder:
    """Return the builder of a front-end with TEXT's settings and changes."""
    return partial(TextFrontend, replace(TEXT, **changes))


def build_student(parallel: Parallel, config: EncoderConfig = PLAIN, seed: int = 1, **frontend: Any) -> Student:
    """Build a student like the engine, without the engine."""
    return Student(config, text_frontend(**frontend), Init(seed), parallel, DropoutStream(seed, parallel.dp_rank, parallel.tp_rank))


def build_vision_student(parallel: Parallel, config: EncoderConfig = PLAIN, seed: int = 1, **frontend: Any) -> Student:
    """A student on nine patches behind a CLS vector: a front-end with a prefix, a bias and features to share."""
    builder = partial(VisionFrontend, replace(VISION, **frontend))
    return Student(config, builder, Init(seed), parallel, DropoutStream(seed, parallel.dp_rank, parallel.tp_rank))


def vision_batch(mask_BN: Tensor, seed: int = 0) -> Batch:
    """Return random pixels for VISION, the same for student and teacher."""
    pixels_BCHW = torch.randn(len(mask_BN), 3, VISION.image_size, VISION.image_size, generator=torch.Generator().manual_seed(seed))
    return Batch(pixels_BCHW, pixels_BCHW, Masks.of(mask_BN), None, None, mask_BN.numel())


def stir(module: nn.Module, seed: int = 0) -> None:
    """Change every parameter from its initial value, so that biases and norms have an effect."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


def random_x(B: int, S: int, seed: int = 0, D: int = PLAIN.hidden_size) -> Tensor:
    """Return normal random numbers (B, S, D)."""
    return torch.randn(B, S, D, generator=torch.Generator().manual_seed(seed))


def bools(*rows: str) -> Tensor:
    """Return a mask from rows of 0 and 1."""
    return torch.tensor([[char == "1" for char in row] for row in rows])


def make_batch(clean_BS: Tensor, mask_BS: Tensor, padding_BS: Tensor | None = None) -> Batch:
    """Return a text micro-batch whose selected tokens are all replaced by <mask>."""
    inputs_BS = clean_BS.masked_fill(mask_BS, MASK_ID)
    real = clean_BS.numel() if padding_BS is None else int((~padding_BS).sum())
    return Batch(inputs_BS, clean_BS, Masks.of(mask_BS), padding_BS, padding_BS, real)


def reference_block(
    weights: dict[str, Tensor], x_BSD: Tensor, config: EncoderConfig, padding_BS: Tensor | None = None, bias_HSS: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return (FFN output, block output) from the weights of one block, under the names inside the block."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(()))

    def scale(name: str, x: Tensor) -> Tensor:
        return x * weights.get(f"{name}.weight", torch.ones(()))

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + config.block.layernorm_epsilon).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attend(x: Tensor) -> Tensor:
        B, S, D = x.shape
        H = config.num_attention_heads
        heads = linear("attention.qkv", x).view(B, S, H, 3, D // H)
        if "attention.query_value_bias.weight" in weights:
            query_HK, value_HK = weights["attention.query_value_bias.weight"].unbind(1)
            heads = torch.stack([heads[..., 0, :] + query_HK, heads[..., 1, :], heads[..., 2, :] + value_HK], dim=3)
        logits = torch.einsum("bihk,bjhk->bhij", heads[..., 0, :], heads[..., 1, :]) / math.sqrt(D // H)
        if bias_HSS is not None:
            logits = logits + bias_HSS
        if padding_BS is not None:
            logits = logits.masked_fill(padding_BS[:, None, None, :], float("-inf"))
        mixed = torch.einsum("bhij,bjhk->bihk", logits.softmax(-1), heads[..., 2, :])
        return linear("attention.proj", mixed.reshape(B, S, D))

    def feed(x: Tensor) -> Tensor:
        hidden = linear("ffn.fc1", x)
        erf_gelu = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        return linear("ffn.fc2", erf_gelu if config.activation == "gelu" else hidden.clamp(min=0))

    if config.block.normalize_before:
        h = x_BSD + scale("attention_scale", attend(norm("attention_norm", x_BSD)))
        ffn = scale("ffn_scale", feed(norm("ffn_norm", h)))
        return ffn, h + ffn
    h = norm("attention_norm", x_BSD + scale("attention_scale", attend(x_BSD)))
    ffn = scale("ffn_scale", feed(h))
    return ffn, norm("ffn_norm", h + ffn)


def reference_encoder(
    weights: dict[str, Tensor], x_BSD: Tensor, config: EncoderConfig, padding_BS: Tensor | None = None, bias_LHSS: Tensor | None = None
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Return the encoder output, and the result of reference_block for every block."""
    outputs = []
    for number in range(config.num_layers):
        prefix = f"layers.{number}."
        block = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        bias_HSS = None if bias_LHSS is None else bias_LHSS[min(number, len(bias_LHSS) - 1)]
        outputs.append(reference_block(block, x_BSD, config, padding_BS, bias_HSS))
        x_BSD = outputs[-1][1]
    if config.block.normalize_before:
        x_BSD = F.layer_norm(
            x_BSD, x_BSD.shape[-1:], weights["final_norm.weight"], weights["final_norm.bias"], config.block.layernorm_epsilon
        )
    return x_BSD, outputs


def seeded(seed: int) -> torch.Generator:
    """Return a generator of random numbers on the CPU."""
    return torch.Generator().manual_seed(seed)


def described(module: torch.nn.Module) -> list[tuple[str, tuple[int, ...], int | None]]:
    """Return name, shape and split dimension of each parameter of a module that was built on one TP rank."""
    found = module.named_parameters()
    return [(name, tuple(p.shape), p.partition_dim if getattr(p, "tensor_model_parallel", False) else None) for name, p in found]


def names_and_shapes(shapes: list[ParameterShape]) -> list[tuple[str, tuple[int, ...], int | None]]:
    """Return the same of the settings' parameters."""
    return [shape[:3] for shape in shapes]
