"""Settings of the data2vec model: encoder, masks, teacher, loss. Torch-free; the front-ends' are in model/frontends/config.py, those of
training and run in recipes/config.py."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from model.bounds import POSITIVE, SHARE, Bounds, at_least

Norm = Literal["batch", "instance", "layer"]
Shares = Literal["nothing", "features", "frontend"]


@dataclass(frozen=True)
class BlockConfig:
    """How a block adds to its input. Defaults: text and speech (post-LN, nothing scaled or dropped)."""

    normalize_before: bool = False
    """False: post-LN blocks (published for text and speech). True: pre-LN blocks and a final LN (vision)."""
    layernorm_epsilon: Annotated[float, at_least(0)] = 1e-5
    key_bias: bool = True
    """False: the projection to keys has no bias (BEiT, vision)."""
    layer_scale: Annotated[float | None, at_least(0)] = None
    """Start of a learned factor per channel on both residual branches (vision); None: no such factor."""
    drop_path: Annotated[float, SHARE] = 0.0
    """Share of samples whose residual branch is dropped in the last block; it grows from 0 in the first (vision)."""
    layerdrop: Annotated[float, SHARE] = 0.0
    """Share of updates that skip a whole block, the same one on every rank (speech)."""
    truncated_init: bool = False
    """True: matrices are drawn within one standard deviation of 0 (BEiT)."""
    depth_scaled_init: bool = False
    """True: the matrices that write into the residual stream of block i start divided by sqrt(2 i), i from 1 (BEiT)."""


@dataclass(frozen=True)
class EncoderConfig:
    """Transformer blocks, in Megatron's names. Defaults: data2vec Base, text (paper section 4; fairseq base.yaml)."""

    num_layers: Annotated[int, at_least(1)] = 12
    hidden_size: Annotated[int, at_least(1)] = 768
    ffn_hidden_size: Annotated[int, at_least(1)] = 3072
    num_attention_heads: Annotated[int, at_least(1)] = 12
    hidden_dropout: Annotated[float, SHARE] = 0.1
    attention_dropout: Annotated[float, SHARE] = 0.1
    activation_dropout: Annotated[float, SHARE] = 0.0
    activation: Literal["gelu", "relu"] = "gelu"
    block: BlockConfig = field(default_factory=BlockConfig)
    init_std: Annotated[float | None, at_least(0)] = 0.02
    """Std of the block's matrices. None: 1/sqrt(fan_in), which suits small widths (0.02 is made for 768)."""
    head_layers: Annotated[int, at_least(0)] = 2
    """Linear layers of the regression head: d -> 2d -> ... -> d with the activation between them; 0: no head."""
    head_init: Literal["blocks", "torch"] = "blocks"
    """blocks: drawn as the blocks are. torch: nn.Linear's own uniform start (speech)."""

    @property
    def num_block_parameters(self) -> int:
        """Parameters of the blocks and, where they are pre-LN, the final norm."""
        d, f, block = self.hidden_size, self.ffn_hidden_size, self.block
        per_channel = 9 - (not block.key_bias) + 2 * (block.layer_scale is not None)
        return self.num_layers * (4 * d * d + 2 * d * f + per_channel * d + f) + (2 * d if block.normalize_before else 0)

    @property
    def num_head_parameters(self) -> int:
        """Parameters of the regression head."""
        return sum(a * b + b for a, b in pairwise(self.head_widths))

    @property
    def head_widths(self) -> list[int]:
        """Widths from the head's input to its output; only the input where there is no head."""
        d = self.hidden_size
        return [d, *[2 * d] * (self.head_layers - 1), d] if self.head_layers else [d]

    def forward_flops(self, num_tokens: int, sequence_length: int) -> int:
        """Model FLOPs of one forward of the blocks: a multiply-add is two; attention over the whole sequence."""
        d, f = self.hidden_size, self.ffn_hidden_size
        return num_tokens * self.num_layers * (8 * d * d + 4 * d * f + 4 * sequence_length * d)


@dataclass(frozen=True)
class MaskConfig:
    """Which positions of a sample the student does not see; each modality has its own. `kind` names the class in config.json."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class TokenMaskConfig(MaskConfig):
    """Which tokens the student does not see (fairseq mask_tokens_dataset.py)."""

    kind: ClassVar[str] = "token"

    prob: Annotated[float, Bounds(above=0, most=1)] = 0.35
    length: Annotated[int, at_least(1)] = 4
    """Span length in tokens; 1 masks single tokens."""
    leave_unmasked_prob: Annotated[float, SHARE] = 0.0
    random_token_prob: Annotated[float, SHARE] = 0.0
    loss_on_all_selected: bool = False
    """False, as published: the loss reads only positions whose input is `<mask>`. True: kept and random tokens too."""


@dataclass(frozen=True)
class SpanMaskConfig(MaskConfig):
    """Which frames the student does not see (fairseq data_utils.py compute_mask_indices, static length, overlap allowed)."""

    kind: ClassVar[str] = "span"

    prob: Annotated[float, Bounds(above=0, most=1)] = 0.65
    """Share of frames that the spans would cover if none overlapped."""
    length: Annotated[int, at_least(1)] = 10
    """Span length in frames."""
    min_masks: Annotated[int, at_least(1)] = 1
    """Spans per sample, at least."""


@dataclass(frozen=True)
class BlockMaskConfig(MaskConfig):
    """Which patches the student does not see (BEiT's block-wise masks, masking_generator.py)."""

    kind: ClassVar[str] = "block"

    num_patches: Annotated[int, at_least(1)] = 120
    """Masked patches, at most and nearly always."""
    min_block: Annotated[int, at_least(1)] = 16
    max_block: Annotated[int, at_least(1)] = 196
    """Patches of one block."""
    min_aspect: Annotated[float, Bounds(above=0, most=1)] = 0.3
    """Smallest height / width of a block; the largest is its inverse."""


@dataclass(frozen=True)
class TeacherConfig:
    """EMA teacher and its targets (paper sections 3.3 and 4)."""

    ema_decay: Annotated[float, SHARE] = 0.999
    """tau_0."""
    ema_end_decay: Annotated[float, SHARE] = 0.9999
    """tau_e."""
    ema_anneal_end_step: Annotated[int, at_least(0)] = 300_000
    """tau_n, in optimizer updates."""
    average_top_k_layers: Annotated[int, at_least(1)] = 10
    """K."""
    target: Literal["ffn", "block"] = "ffn"
    """ffn: output of the second FFN matrix before dropout and residual. block: output of the whole block."""
    layer_norms: tuple[Norm, ...] = ("layer",)
    """Norms without parameters applied to each layer's output, in the order batch, instance, layer."""
    average_norms: tuple[Norm, ...] = ()
    """Norms applied to the average of the K layers, in the order layer, instance."""
    shares: Shares = "frontend"
    """What the teacher takes from the student as it is, instead of averaging it. nothing: the whole trunk is averaged (vision
    release). features: the embedding of raw inputs (fairseq `ema_transformer_only`). frontend: positions too (text
    `ema_transformer_layers_only`, speech `ema_layers_only`)."""

    def decay_after(self, updates_done: int) -> float:
        """tau after `updates_done` updates: linear from ema_decay to ema_end_decay over ema_anneal_end_step, then constant.

        Source: paper section 3.2; fairseq ema_module.py get_annealed_rate.
        """
        if updates_done >= self.ema_anneal_end_step:
            return self.ema_end_decay
        return self.ema_decay + (self.ema_end_decay - self.ema_decay) * updates_done / self.ema_anneal_end_step


@dataclass(frozen=True)
class LossConfig:
    """Regression loss at the masked positions (paper section 3.4)."""

    beta: Annotated[float, at_least(0)] = 4.0
    """Threshold of smooth L1; 0 is the plain squared error."""
    channels: Literal["sum", "mean"] = "sum"
    """How the channels of a position are reduced (mean: vision release)."""
    scale: Annotated[float | None, POSITIVE] = 1.0
    """Factor on that; None is 1/sqrt(hidden_size)."""
