"""Settings of the data2vec model: encoder, front-ends, masks, teacher, loss. Torch-free; holds no training or run settings."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Norm = Literal["batch", "instance", "layer"]


@dataclass(frozen=True)
class EncoderConfig:
    """Transformer blocks, in Megatron's names. Defaults: data2vec Base, text (paper section 4; fairseq base.yaml)."""

    num_layers: int = 12
    hidden_size: int = 768
    ffn_hidden_size: int = 3072
    num_attention_heads: int = 12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    activation: Literal["gelu", "relu"] = "gelu"
    normalize_before: bool = False
    """False: post-LN blocks (published for text and speech). True: pre-LN blocks and a final LN."""
    layernorm_epsilon: float = 1e-5
    init_std: float | None = 0.02
    """Std of the block's matrices. None: 1/sqrt(fan_in), which suits small widths (0.02 is made for 768)."""
    head_layers: int = 2
    """Linear layers of the regression head: d -> 2d -> ... -> d with the activation between them."""

    @property
    def num_block_parameters(self) -> int:
        """Parameters of the blocks and, where they are pre-LN, the final norm."""
        d, f = self.hidden_size, self.ffn_hidden_size
        return self.num_layers * (4 * d * d + 2 * d * f + 9 * d + f) + (2 * d if self.normalize_before else 0)

    @property
    def num_head_parameters(self) -> int:
        """Parameters of the regression head."""
        widths = [self.hidden_size, *[2 * self.hidden_size] * (self.head_layers - 1), self.hidden_size]
        return sum(a * b + b for a, b in pairwise(widths))

    def forward_flops(self, num_tokens: int, sequence_length: int) -> int:
        """Model FLOPs of one forward of the blocks: a multiply-add is two; attention over the whole sequence."""
        d, f = self.hidden_size, self.ffn_hidden_size
        return num_tokens * self.num_layers * (8 * d * d + 4 * d * f + 4 * sequence_length * d)


@dataclass(frozen=True)
class TextFrontendConfig:
    """Token embeddings and positions (fairseq TransformerEncoder as data2vec_text.py uses it)."""

    vocab_size: int = 50265
    """Tokenizer symbols, `<mask>` included: it is the last one."""
    max_positions: int = 512
    """Longest sequence; the table of absolute positions has pad + 1 rows more."""
    positions: Literal["absolute", "relative"] = "absolute"
    """absolute: learned table added to the tokens (published). relative: learned bias per head and offset, shared by the
    blocks, initialised as symmetric ALiBi (not published)."""
    embedding_init_std: float = 0.02

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table: the vocabulary rounded up to a multiple of 128, whatever the TP size, so that every TP
        size holds the same table."""
        return -(-self.vocab_size // 128) * 128

    def split_sizes(self) -> dict[str, int]:
        """What tensor parallelism splits here: name -> size, which the TP size must divide."""
        return {f"frontend.vocab_size {self.vocab_size} padded to": self.padded_vocab_size}

    def num_parameters(self, encoder: EncoderConfig) -> int:
        """Token table without the rows that pad it, positions or relative bias, and the norm."""
        d = encoder.hidden_size
        positions = (
            (self.max_positions + 2) * d if self.positions == "absolute" else (2 * self.max_positions - 1) * encoder.num_attention_heads
        )
        return self.vocab_size * d + positions + 2 * d

    def forward_flops(self, num_tokens: int) -> int:
        """Look-ups cost none."""
        return 0


@dataclass(frozen=True)
class TokenMaskConfig:
    """Which tokens the student does not see (fairseq mask_tokens_dataset.py)."""

    prob: float = 0.35
    length: int = 4
    """Span length in tokens; 1 masks single tokens."""
    leave_unmasked_prob: float = 0.0
    random_token_prob: float = 0.0
    loss_on_all_selected: bool = False
    """False, as published: the loss reads only positions whose input is `<mask>`. True: kept and random tokens too."""


@dataclass(frozen=True)
class TeacherConfig:
    """EMA teacher and its targets (paper sections 3.3 and 4)."""

    ema_decay: float = 0.999
    """tau_0."""
    ema_end_decay: float = 0.9999
    """tau_e."""
    ema_anneal_end_step: int = 300_000
    """tau_n, in optimizer updates."""
    average_top_k_layers: int = 10
    """K."""
    target: Literal["ffn", "block"] = "ffn"
    """ffn: output of the second FFN matrix before dropout and residual. block: output of the whole block."""
    layer_norms: tuple[Norm, ...] = ("layer",)
    """Norms without parameters applied to each layer's output, in the order batch, instance, layer."""
    average_norms: tuple[Norm, ...] = ()
    """Norms applied to the average of the K layers, in the order layer, instance."""
    ema_transformer_layers_only: bool = True
    """True: the front-end is copied from the student, not averaged."""


@dataclass(frozen=True)
class LossConfig:
    """Regression loss at the masked positions (paper section 3.4)."""

    beta: float = 4.0
    """Threshold of smooth L1; 0 is the plain squared error."""
    scale: float | None = 1.0
    """Factor on the sum over channels; None is 1/sqrt(hidden_size)."""
