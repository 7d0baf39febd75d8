"""Settings of the front-ends and the arithmetic that follows from them: parameters, FLOPs, lengths. Torch-free. Speech's:
model/frontends/speech_config.py."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from model.activations import STATISTIC_BYTES, Storage, TensorBytes
from model.bounds import at_least
from model.config import EncoderConfig
from model.flops import FrontendFlops
from model.shapes import ParameterShape, vectors

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

    def parameters(self, encoder: EncoderConfig) -> list[ParameterShape]:
        """Return the parameters of the front-end, in the order of its modules. `encoder` gives its width and heads."""
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

    def parameters(self, encoder: EncoderConfig) -> list[ParameterShape]:
        """Return the parameters: token table, position table or relative bias, and the LayerNorm. Rows that pad the token table are not
        used."""
        D, rows = encoder.hidden_size, self.padded_vocab_size
        positions = ParameterShape("positions.weight", (self.max_positions + 2, D))
        if self.positions == "relative":
            positions = ParameterShape("relative_bias.weight", (encoder.num_attention_heads, 2 * self.max_positions - 1), 0)
        tokens = ParameterShape("tokens.weight", (rows, D), 0, num_unused=(rows - self.vocab_size) * D)
        return [tokens, positions, *vectors(D, "norm.weight", "norm.bias")]

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

    def parameters(self, encoder: EncoderConfig) -> list[ParameterShape]:
        """Return the parameters: CLS and mask vectors, patch embedding, and bias tables of ((2 grid - 1)^2 + 3) x heads."""
        D, table = encoder.hidden_size, (encoder.num_attention_heads, (2 * self.grid - 1) ** 2 + 3)
        names = ["weight"] if self.relative_bias == "shared" else [f"{i}.weight" for i in range(self.num_tables(encoder.num_layers))]
        return [
            *vectors(D, "cls_vector", "mask_vector"),
            ParameterShape("patches.weight", (D, self.num_channels, self.patch_size, self.patch_size)),
            *vectors(D, "patches.bias"),
            *(ParameterShape(f"relative_bias.{name}", table, 0) for name in names),
        ]

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
