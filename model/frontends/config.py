"""Settings of the front-ends and the arithmetic that follows from them: parameters, FLOPs, lengths. Torch-free."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from model.activations import STATISTIC_BYTES, Storage, TensorBytes, extractor_bytes
from model.bounds import at_least
from model.config import EncoderConfig
from model.flops import FrontendFlops

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of pixels in [0, 1], red, green and blue (torchvision; data2vec's vision release:
--imagenet_default_mean_and_std)."""


@dataclass(frozen=True)
class FrontendConfig:
    """Base of the settings of a front-end, which embeds the raw input. Each modality has a subclass; config.json stores its `kind`."""

    kind: ClassVar[str]
    num_prefix_tokens: ClassVar[int] = 0
    """How many positions, such as CLS, stand before those of the sample. They take part in the attention and have no target."""

    raw_parts: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the names of the parameters that embed raw input and that fine-tuning may freeze. (): there are none."""

    def split_sizes(self) -> dict[str, int]:
        """Return name -> size of each dimension of the front-end that is split over the tensor-parallel ranks. The size must be a
        multiple of their number. The name is for error messages. {} if nothing is split."""
        return {}

    def num_parameters(self, encoder: EncoderConfig) -> int:
        """Return the number of parameters of the front-end. `encoder` gives its width and heads."""
        raise NotImplementedError

    def forward_flops(self, encoder: EncoderConfig, num_tokens: float) -> FrontendFlops:
        """Return the FLOPs of one forward on one sample of `num_tokens` positions without prefix tokens. A multiply-add counts as two."""
        raise NotImplementedError

    def tokens_per_sample(self, length: float) -> int:
        """Return how many positions a sample has, without prefix tokens such as CLS. `length`: tokens of a text, or raw samples of a
        waveform; not used for images."""
        raise NotImplementedError

    def activation_bytes(self, encoder: EncoderConfig, storage: Storage, *, freezes_features: bool) -> TensorBytes:
        """Return what the front-end keeps for its backward, by tensor, in bytes for each position. `freezes_features`: the parameters of
        raw_parts get no gradient. The base class, for a front-end that has no estimate of its own, returns {}."""
        return {}

    def bias_bytes(self, encoder: EncoderConfig, storage: Storage, sequence_length: int) -> TensorBytes:
        """Return the tensors of a learned bias on the attention logits, in bytes for each micro-batch; {} if there is none."""
        return {}

    def table_size(self, encoder: EncoderConfig) -> int:
        """Return the numbers in a table of embeddings, whose gradient is made as one tensor at the end of the backward; 0 without one."""
        return 0


@dataclass(frozen=True)
class TextFrontendConfig(FrontendConfig):
    """Settings of the text front-end: token embeddings and positions (fairseq TransformerEncoder as data2vec_text.py uses it)."""

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
        """Rows of the embedding table: vocab_size rounded up to a multiple of 128. It does not depend on the tensor-parallel size, so
        that every run holds the same table."""
        return -(-self.vocab_size // 128) * 128

    def split_sizes(self) -> dict[str, int]:
        """Return {name: rows of the embedding table}. The rows are split over the tensor-parallel ranks, so they must be a multiple of
        the number of ranks. The name is for error messages."""
        return {f"frontend.vocab_size {self.vocab_size} padded to": self.padded_vocab_size}

    def tokens_per_sample(self, length: float) -> int:
        """Return the number of positions of a text of `length` tokens: the same, rounded down."""
        return int(length)

    def num_parameters(self, encoder: EncoderConfig) -> int:
        """Return the number of parameters: token table (without its padding rows), position table or relative bias, and the LayerNorm."""
        d = encoder.hidden_size
        positions = (
            (self.max_positions + 2) * d if self.positions == "absolute" else (2 * self.max_positions - 1) * encoder.num_attention_heads
        )
        return self.vocab_size * d + positions + 2 * d

    def forward_flops(self, encoder: EncoderConfig, num_tokens: float) -> FrontendFlops:
        """Return no FLOPs: looking up embeddings needs no multiplications."""
        return FrontendFlops()

    def activation_bytes(self, encoder: EncoderConfig, storage: Storage, *, freezes_features: bool) -> TensorBytes:
        """Return ids, input of the LayerNorm and dropout mask, in bytes for each position."""
        D = encoder.hidden_size
        return {
            "token ids": 8,
            "sum of the embeddings": D * storage.value_bytes,
            "mean and deviation of the norm": 2 * STATISTIC_BYTES,
            "dropout mask of the input": D * storage.mask_bytes * (encoder.hidden_dropout > 0),
        }

    def table_size(self, encoder: EncoderConfig) -> int:
        """Return the numbers in the table of tokens."""
        return self.padded_vocab_size * encoder.hidden_size

    def bias_bytes(self, encoder: EncoderConfig, storage: Storage, sequence_length: int) -> TensorBytes:
        """Return the bias and its index if positions are relative, in bytes for each micro-batch."""
        if self.positions == "absolute":
            return {}
        pairs = sequence_length**2
        return {"attention bias": encoder.num_attention_heads / storage.tp_size * pairs * storage.value_bytes, "its index": 8 * pairs}


@dataclass(frozen=True)
class SpeechFrontendConfig(FrontendConfig):
    """Settings of the speech front-end: convolutions over the waveform, a projection, and positional convolutions (fairseq wav2vec2.py
    as data2vec_audio.py and base_librispeech.yaml use it)."""

    kind: ClassVar[str] = "speech"
    raw_parts: ClassVar[tuple[str, ...]] = ("extractor.",)
    conv_dim: Annotated[int, at_least(1)] = 512
    """Channels of every convolution of the feature extractor."""
    conv_kernels: Annotated[tuple[int, ...], at_least(1)] = (10, 3, 3, 3, 3, 2, 2)
    """Kernel sizes of the extractor's convolutions. The first counts raw samples."""
    conv_strides: Annotated[tuple[int, ...], at_least(1)] = (5, 2, 2, 2, 2, 2, 2)
    """Strides of the extractor's convolutions. Their product is the raw samples per frame (320: a frame each 20 ms at 16 kHz)."""
    conv_bias: bool = False
    """True: the extractor's convolutions have a bias."""
    extractor_norm: Literal["layer", "group"] = "layer"
    """layer: LayerNorm over channels after every convolution (data2vec). group: after the first convolution only, one norm per channel
    over time (wav2vec 2.0 Base)."""
    pos_conv_depth: Annotated[int, at_least(1)] = 5
    """Convolutions of the positional encoding. 1: a single weight-normed one (wav2vec 2.0)."""
    pos_conv_kernel: Annotated[int, at_least(1)] = 19
    """Kernel size of each positional convolution, in frames (base_librispeech.yaml: max(3, 95 // 5))."""
    pos_conv_groups: Annotated[int, at_least(1)] = 16
    """Groups of each positional convolution. model.hidden_size must be a multiple of it."""
    exact_padding: bool = False
    """False, as published: padded frames are zeroed before the first positional convolution only, so a few frames next to padding
    differ from an unpadded run. True: zeroed before each, so none differs."""
    exact_statistics: bool = False
    """False, as published: the statistics of the group norm include padding, so all frames of a padded recording differ a little from an
    unpadded run. True: they are taken over the raw samples that the recording's frames read, so none differs."""

    @property
    def stride(self) -> int:
        """Raw samples of the waveform from the start of one frame to the start of the next."""
        return math.prod(self.conv_strides)

    @property
    def receptive_field(self) -> int:
        """Raw samples of the waveform from which one frame is computed."""
        field_samples, step = 1, 1
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            field_samples, step = field_samples + (kernel - 1) * step, step * stride
        return field_samples

    @property
    def first_stride(self) -> int:
        """Outputs of the first convolution from the start of one frame to the start of the next."""
        return math.prod(self.conv_strides[1:])

    @property
    def first_field(self) -> int:
        """Outputs of the first convolution from which one frame is computed."""
        return (self.receptive_field - self.conv_kernels[0]) // self.conv_strides[0] + 1

    def num_frames(self, num_samples: int) -> int:
        """Return the frames that a waveform of `num_samples` gives; 0 if it is shorter than the receptive field."""
        return self.num_outputs(num_samples)[-1]

    def num_outputs(self, num_samples: int) -> list[int]:
        """Return `num_samples`, then the outputs of each convolution on a waveform of as many raw samples: floor((n - kernel) / stride + 1)
        of the n before; 0 if those are too few."""
        counts = [num_samples]
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            counts.append(max(0, (counts[-1] - kernel) // stride + 1))
        return counts

    def tokens_per_sample(self, length: float) -> int:
        """Return the frames that a waveform of `length` samples gives; 0 if it is shorter than one frame needs."""
        return self.num_frames(int(length))

    def num_parameters(self, encoder: EncoderConfig) -> int:
        """Return the number of parameters: extractor, norm and projection, mask vector, positional convolutions, and the LayerNorm
        before post-LN blocks."""
        c, d, layers = self.conv_dim, encoder.hidden_size, len(self.conv_kernels)
        convolutions = c * self.conv_kernels[0] + sum(c * c * kernel for kernel in self.conv_kernels[1:]) + layers * c * self.conv_bias
        norms = 2 * c * (layers if self.extractor_norm == "layer" else 1)
        weight_norm = self.pos_conv_kernel if self.pos_conv_depth == 1 else 0
        positions = self.pos_conv_depth * (d * d // self.pos_conv_groups * self.pos_conv_kernel + d) + weight_norm
        entry_norm = 0 if encoder.block.normalize_before else 2 * d
        return convolutions + norms + 2 * c + c * d + d + d + positions + entry_norm

    def forward_flops(self, encoder: EncoderConfig, num_tokens: float) -> FrontendFlops:
        """Return the FLOPs of extractor, projection and positional convolutions for `num_tokens` frames. The waveform is taken to be half a
        stride longer than these frames need, which is the mean: the convolutions compute outputs at its end that no frame reads."""
        c, d = self.conv_dim, encoder.hidden_size
        outputs = self.num_outputs(int((num_tokens - 0.5) * self.stride) + self.receptive_field)[1:]
        first, *others = (2 * c * number * kernel for number, kernel in zip(outputs, self.conv_kernels, strict=True))
        positions = self.pos_conv_depth * 2 * d * d // self.pos_conv_groups * self.pos_conv_kernel
        return FrontendFlops(first, c * sum(others), num_tokens * 2 * c * d, num_tokens * positions)

    def activation_bytes(self, encoder: EncoderConfig, storage: Storage, *, freezes_features: bool) -> TensorBytes:
        """Return what extractor, projection and positional convolutions keep, in bytes for each frame."""
        D, value = encoder.hidden_size, storage.value_bytes
        rates = [math.prod(self.conv_strides[number + 1 :]) for number in range(len(self.conv_strides))]
        exact = self.exact_statistics and self.extractor_norm == "group"
        single = self.pos_conv_depth == 1  # which has no norm
        extractor = extractor_bytes(self.conv_dim, rates, storage, norm=self.extractor_norm, has_exact_norm=exact)
        return {
            **({} if freezes_features else {"waveform": self.stride * value} | extractor),
            "output of the extractor": self.conv_dim * storage.norm_bytes,
            "input of the projection": self.conv_dim * value,
            "features, which the teacher may read": D * value,
            "inputs of the positional convolutions": self.pos_conv_depth * D * value,
            "outputs of the positional convolutions": self.pos_conv_depth * D * (value if single else storage.norm_bytes),
            "their norms": 0 if single else self.pos_conv_depth * D * value,
            "sum of features and positions": D * storage.norm_bytes * (not encoder.block.normalize_before),
            "dropout mask of the input": D * storage.mask_bytes * (encoder.hidden_dropout > 0),
        }


@dataclass(frozen=True)
class VisionFrontendConfig(FrontendConfig):
    """Settings of the vision front-end: patch embedding, CLS and relative position bias (BEiT as data2vec's vision release uses it)."""

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
        """Number of patches along one side of the image."""
        return self.image_size // self.patch_size

    def tokens_per_sample(self, length: float = 0) -> int:
        """Return the number of patches of an image. `length` is not used: every image has the recipe's size."""
        return self.grid**2

    def num_tables(self, num_layers: int) -> int:
        """Return how many tables of relative position bias there are, for an encoder of `num_layers` blocks."""
        return {"shared": 1, "per_layer": num_layers, "none": 0}[self.relative_bias]

    def num_parameters(self, encoder: EncoderConfig) -> int:
        """Return the number of parameters: patch embedding, CLS and mask vectors, and bias tables of ((2 grid - 1)^2 + 3) x heads."""
        d = encoder.hidden_size
        table = ((2 * self.grid - 1) ** 2 + 3) * encoder.num_attention_heads
        return self.num_channels * self.patch_size**2 * d + d + 2 * d + self.num_tables(encoder.num_layers) * table

    def forward_flops(self, encoder: EncoderConfig, num_tokens: float) -> FrontendFlops:
        """Return the FLOPs of embedding `num_tokens` patches, which the convolution reads from pixels."""
        return FrontendFlops(raw=num_tokens * 2 * self.num_channels * self.patch_size**2 * encoder.hidden_size)

    def activation_bytes(self, encoder: EncoderConfig, storage: Storage, *, freezes_features: bool) -> TensorBytes:
        """Return pixels and embedded patches, in bytes for each position."""
        D, value = encoder.hidden_size, storage.value_bytes
        return {
            "pixels": self.num_channels * self.patch_size**2 * (value if value < 4 else 0),  # in float32 they are the batch's own
            "features, which the teacher may read": D * value,
        }

    def bias_bytes(self, encoder: EncoderConfig, storage: Storage, sequence_length: int) -> TensorBytes:
        """Return the biases and the index of their rows, in bytes for each micro-batch."""
        tables, pairs = self.num_tables(encoder.num_layers), sequence_length**2
        if not tables:
            return {}
        heads = encoder.num_attention_heads / storage.tp_size
        return {"attention biases": tables * heads * pairs * storage.value_bytes, "their index": 8 * pairs}
