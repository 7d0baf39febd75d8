"""Settings of the front-ends and the arithmetic that follows from them: parameters, FLOPs, lengths. Torch-free."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from model.bounds import at_least
from model.config import EncoderConfig


@dataclass(frozen=True)
class FrontendConfig:
    """Common base of the front-ends' settings. `kind` names the class in config.json."""

    kind: ClassVar[str]
    num_prefix_tokens: ClassVar[int] = 0
    """Positions in front of the sample's own that are attended to and carry no target."""

    def split_sizes(self) -> dict[str, int]:
        """What tensor parallelism splits here: name -> size, which the TP size must divide. Heads are the encoder's."""
        return {}

    def num_parameters(self, encoder: EncoderConfig) -> int:
        """Parameters of the front-end."""
        raise NotImplementedError

    def forward_flops(self, encoder: EncoderConfig, num_tokens: int) -> int:
        """Model FLOPs of one forward of the front-end on `num_tokens` positions; a multiply-add is two."""
        raise NotImplementedError

    def tokens_per_sample(self, length: float) -> int:
        """Positions of a sample of `length` raw units: tokens of a text, samples of a waveform. Images have one length."""
        raise NotImplementedError


@dataclass(frozen=True)
class TextFrontendConfig(FrontendConfig):
    """Token embeddings and positions (fairseq TransformerEncoder as data2vec_text.py uses it)."""

    kind: ClassVar[str] = "text"
    vocab_size: Annotated[int, at_least(6)] = 50265
    """Symbols of the tokenizer. The first four are special ones; `<mask>` is the last."""
    max_positions: Annotated[int, at_least(1)] = 512
    """Longest sequence, in tokens. The table of absolute positions has two more rows, as fairseq's."""
    positions: Literal["absolute", "relative"] = "absolute"
    """absolute: a learned table is added to the tokens (published). relative: a learned bias per head and offset, shared by the
    blocks, starts as symmetric ALiBi (not published)."""
    embedding_init_std: Annotated[float, at_least(0)] = 0.02
    """Standard deviation of initial token and position embeddings."""

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table: the vocabulary rounded up to a multiple of 128, whatever the TP size, so that every TP
        size holds the same table."""
        return -(-self.vocab_size // 128) * 128

    def split_sizes(self) -> dict[str, int]:
        """What tensor parallelism splits here: name -> size, which the TP size must divide."""
        return {f"frontend.vocab_size {self.vocab_size} padded to": self.padded_vocab_size}

    def tokens_per_sample(self, length: float) -> int:
        """A token is a position."""
        return int(length)

    def num_parameters(self, encoder: EncoderConfig) -> int:
        """Token table without the rows that pad it, positions or relative bias, and the norm."""
        d = encoder.hidden_size
        positions = (
            (self.max_positions + 2) * d if self.positions == "absolute" else (2 * self.max_positions - 1) * encoder.num_attention_heads
        )
        return self.vocab_size * d + positions + 2 * d

    def forward_flops(self, encoder: EncoderConfig, num_tokens: int) -> int:
        """Look-ups cost none."""
        return 0


@dataclass(frozen=True)
class SpeechFrontendConfig(FrontendConfig):
    """Convolutions over the waveform, a projection, and convolutions as positions (fairseq wav2vec2.py as
    data2vec_audio.py and base_librispeech.yaml use it)."""

    kind: ClassVar[str] = "speech"
    conv_dim: Annotated[int, at_least(1)] = 512
    """Channels of every convolution of the feature extractor."""
    conv_kernels: Annotated[tuple[int, ...], at_least(1)] = (10, 3, 3, 3, 3, 2, 2)
    """Kernel sizes of the extractor's convolutions. The first counts raw samples."""
    conv_strides: Annotated[tuple[int, ...], at_least(1)] = (5, 2, 2, 2, 2, 2, 2)
    """Their strides. The product is the raw samples per frame (320: a frame each 20 ms at 16 kHz)."""
    conv_bias: bool = False
    """True: the extractor's convolutions have a bias."""
    extractor_norm: Literal["layer", "group"] = "layer"
    """layer: LayerNorm over channels after every convolution (data2vec). group: after the first convolution only, one norm per channel
    over time (wav2vec 2.0 Base). Its statistics include padding."""
    pos_conv_depth: Annotated[int, at_least(1)] = 5
    """Convolutions of the positional encoding. 1: a single weight-normed one (wav2vec 2.0)."""
    pos_conv_kernel: Annotated[int, at_least(1)] = 19
    """Kernel size of each positional convolution, in frames (base_librispeech.yaml: max(3, 95 // 5))."""
    pos_conv_groups: Annotated[int, at_least(1)] = 16
    """Groups of each positional convolution. model.hidden_size must be a multiple of it."""
    exact_padding: bool = False
    """False, as published: padded frames are zeroed before the first positional convolution only, so a few frames next to padding
    differ from an unpadded run. True: zeroed before each, so none differs."""

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(self.conv_strides)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees."""
        field_samples, step = 1, 1
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            field_samples, step = field_samples + (kernel - 1) * step, step * stride
        return field_samples

    def num_frames(self, num_samples: int) -> int:
        """Frames of a waveform: floor((n - k) / s + 1) for each convolution; 0 below the receptive field."""
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            num_samples = max(0, (num_samples - kernel) // stride + 1)
        return num_samples

    def tokens_per_sample(self, length: float) -> int:
        """Frames of a waveform of `length` samples."""
        return self.num_frames(int(length))

    def num_parameters(self, encoder: EncoderConfig) -> int:
        """Extractor, norm and projection, mask vector, positional convolutions, and the norm before post-LN blocks."""
        c, d, layers = self.conv_dim, encoder.hidden_size, len(self.conv_kernels)
        convolutions = c * self.conv_kernels[0] + sum(c * c * kernel for kernel in self.conv_kernels[1:]) + layers * c * self.conv_bias
        norms = 2 * c * (layers if self.extractor_norm == "layer" else 1)
        weight_norm = self.pos_conv_kernel if self.pos_conv_depth == 1 else 0
        positions = self.pos_conv_depth * (d * d // self.pos_conv_groups * self.pos_conv_kernel + d) + weight_norm
        entry_norm = 0 if encoder.block.normalize_before else 2 * d
        return convolutions + norms + 2 * c + c * d + d + d + positions + entry_norm

    def forward_flops(self, encoder: EncoderConfig, num_tokens: int) -> int:
        """Convolutions at their own frame rates, the projection and the positional convolutions."""
        c, d = self.conv_dim, encoder.hidden_size
        rate, flops = self.stride, 0  # outputs of a convolution per final frame, to the edge
        for number, (kernel, stride) in enumerate(zip(self.conv_kernels, self.conv_strides, strict=True)):
            rate //= stride
            flops += 2 * rate * kernel * (c * c if number else c)
        flops += 2 * c * d + self.pos_conv_depth * 2 * d * d // self.pos_conv_groups * self.pos_conv_kernel
        return num_tokens * flops


@dataclass(frozen=True)
class VisionFrontendConfig(FrontendConfig):
    """Patch embedding, CLS and relative position bias (BEiT as data2vec's vision release uses it)."""

    kind: ClassVar[str] = "vision"
    image_size: Annotated[int, at_least(1)] = 224
    """Height and width of the network's input, in pixels."""
    patch_size: Annotated[int, at_least(1)] = 16
    """Height and width of a patch, in pixels. image_size must be a multiple of it."""
    num_channels: Annotated[int, at_least(1)] = 3
    """Colour channels of the input."""
    relative_bias: Literal["shared", "per_layer", "none"] = "shared"
    """Tables of relative position bias. shared: one for all blocks (published for pre-training). per_layer: one for each (BEiT's
    fine-tuning)."""
    num_prefix_tokens: ClassVar[int] = 1
    """CLS: never masked, never a target."""

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    def tokens_per_sample(self, length: float = 0) -> int:
        """Patches; every image has the recipe's size."""
        return self.grid**2

    def num_tables(self, num_layers: int) -> int:
        """Tables of relative position bias."""
        return {"shared": 1, "per_layer": num_layers, "none": 0}[self.relative_bias]

    def num_parameters(self, encoder: EncoderConfig) -> int:
        """Patch embedding, CLS and mask vectors, bias tables of ((2 grid - 1)^2 + 3) x heads."""
        d = encoder.hidden_size
        table = ((2 * self.grid - 1) ** 2 + 3) * encoder.num_attention_heads
        return self.num_channels * self.patch_size**2 * d + d + 2 * d + self.num_tables(encoder.num_layers) * table

    def forward_flops(self, encoder: EncoderConfig, num_tokens: int) -> int:
        """The patch embedding."""
        return num_tokens * 2 * self.num_channels * self.patch_size**2 * encoder.hidden_size
