"""Settings of the model: encoder, masks, teacher, loss. Torch-free. Those of the front-ends: model/frontends/config.py; of training and the
run: recipes/config.py."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from model.bounds import POSITIVE, SHARE, Bounds, at_least
from model.shapes import ParameterShape, linear_layers, vectors
from model.spans import covered_share, mean_over_counts

ProductLibrary = Literal["mm", "onednn", "mixed"]
"""Library of float32 matrix products on a CPU. mm: torch.mm, which uses MKL. onednn: oneDNN. mixed: oneDNN, but MKL for the gradients of
weights."""

Norm = Literal["batch", "instance", "layer"]
Shares = Literal["nothing", "features", "frontend"]


@dataclass(frozen=True)
class BlockConfig:
    """How a Transformer block computes. The defaults are those of text and speech: LayerNorm after the residual addition (post-LN), no
    layer scale, no drop path."""

    normalize_before: bool = False
    """False: LayerNorm after each residual addition (post-LN; text and speech). True: before, and once more after the last block
    (pre-LN; vision)."""
    layernorm_epsilon: Annotated[float, at_least(0)] = 1e-5
    """Epsilon of every LayerNorm in the blocks."""
    key_bias: bool = True
    """False: the projection to keys has no bias (BEiT, vision)."""
    layer_scale: Annotated[float | None, at_least(0)] = None
    """Initial value of a learned factor for each channel on both residual branches (vision). None: there is no such factor."""
    drop_path: Annotated[float, SHARE] = 0.0
    """Probability that a sample skips the residual branches of the last block. It grows linearly from 0 in the first block (vision)."""
    layerdrop: Annotated[float, SHARE] = 0.0
    """Probability that a micro-batch skips a whole block, the same one on every rank (speech)."""
    truncated_init: bool = False
    """True: the normal distribution of initial matrices is cut off at one standard deviation (BEiT)."""
    depth_scaled_init: bool = False
    """True: matrices that write to the residual stream start divided by sqrt(2 i) in block i, counted from 1 (BEiT)."""


@dataclass(frozen=True)
class EncoderConfig:
    """The Transformer, in Megatron's names. The defaults are Base for text (paper section 4; fairseq base.yaml)."""

    num_layers: Annotated[int, at_least(1)] = 12
    """Transformer blocks."""
    hidden_size: Annotated[int, at_least(1)] = 768
    """Channels of the residual stream."""
    ffn_hidden_size: Annotated[int, at_least(1)] = 3072
    """Channels inside the feed-forward layer."""
    num_attention_heads: Annotated[int, at_least(1)] = 12
    """Attention heads. hidden_size must be a multiple of it."""
    hidden_dropout: Annotated[float, SHARE] = 0.1
    """Dropout on the embedded input (text, speech), on the output of attention and on that of the feed-forward layer."""
    attention_dropout: Annotated[float, SHARE] = 0.1
    """Dropout on attention probabilities."""
    activation_dropout: Annotated[float, SHARE] = 0.0
    """Dropout between activation and second matrix of the feed-forward layer."""
    activation: Literal["gelu", "relu"] = "gelu"
    """Activation of the feed-forward layers and of the regression head."""
    block: BlockConfig = field(default_factory=BlockConfig)
    init_std: Annotated[float | None, at_least(0)] = 0.02
    """Standard deviation of the blocks' initial matrices. None: 1/sqrt(fan_in), which suits small models (0.02 is made for 768
    channels)."""
    head_layers: Annotated[int, at_least(0)] = 2
    """Linear layers of the head that predicts at masked positions, d -> 2d -> ... -> outputs (d in data2vec), with the activation between
    them. 0: no head."""
    head_init: Literal["blocks", "torch"] = "blocks"
    """blocks: the head's matrices start like those of the blocks. torch: uniform, as nn.Linear starts (speech)."""

    @property
    def parameters(self) -> list[ParameterShape]:
        """The parameters of all Transformer blocks, and of the final LayerNorm if there is one (pre-LN), in the order of the modules."""
        blocks = [shape.inside(f"layers.{number}") for number in range(self.num_layers) for shape in self.block_parameters]
        return blocks + (vectors(self.hidden_size, "final_norm.weight", "final_norm.bias") if self.block.normalize_before else [])

    @property
    def block_parameters(self) -> list[ParameterShape]:
        """The parameters of one Transformer block (model/layers.py), in the order of its modules."""
        D, F, H, block = self.hidden_size, self.ffn_hidden_size, self.num_attention_heads, self.block
        biases = ParameterShape("attention.qkv.bias", (3 * D,), 0)
        if not block.key_bias:
            biases = ParameterShape("attention.query_value_bias.weight", (H, 2, D // H), 0)
        has_scale = block.layer_scale is not None
        return [
            ParameterShape("attention.qkv.weight", (3 * D, D), 0),
            biases,
            ParameterShape("attention.proj.weight", (D, D), 1),
            *vectors(D, "attention.proj.bias", "attention_norm.weight", "attention_norm.bias"),
            *(vectors(D, "attention_scale.weight") if has_scale else []),
            ParameterShape("ffn.fc1.weight", (F, D), 0),
            ParameterShape("ffn.fc1.bias", (F,), 0),
            ParameterShape("ffn.fc2.weight", (D, F), 1),
            *vectors(D, "ffn.fc2.bias", "ffn_norm.weight", "ffn_norm.bias"),
            *(vectors(D, "ffn_scale.weight") if has_scale else []),
        ]

    def head_widths(self, num_outputs: int) -> list[int]:
        """Return the channels before and after each linear layer of the head, from its input to its `num_outputs` outputs; [hidden_size]
        without a head."""
        d = self.hidden_size
        return [d, *[2 * d] * (self.head_layers - 1), num_outputs] if self.head_layers else [d]

    def forward_flops(self, sequence_length: float) -> dict[str, float]:
        """Return the FLOPs of one forward of all blocks on one sequence of `sequence_length` positions, by part. A multiply-add counts as
        two. Each position attends to its whole sequence. The backward of each part has twice as many."""
        d, positions = self.hidden_size, self.num_layers * sequence_length
        return {
            "projections": positions * 8 * d * d,  # queries, keys, values and output
            "attention": positions * 4 * sequence_length * d,  # scores, and the mix of values
            "feed-forward": positions * 4 * d * self.ffn_hidden_size,
        }


@dataclass(frozen=True)
class HeadConfig:
    """The head of a supervised task. It reads the trunk's output at one token, its mean, or every position."""

    reads: Literal["cls", "mean", "positions"] = "cls"
    """cls: the output at the first token of the sample, `<s>` (texts). mean: the mean over all positions that are neither padding nor
    prefix. positions: each position by itself (CTC)."""
    norm: bool = False
    """True: a LayerNorm of the head's own before the linear layers, with the epsilon of the blocks. The final LayerNorm of pre-LN blocks is
    then left out (images; BEiT fc_norm, transformers pooler.layernorm)."""
    hidden: Literal["none", "linear", "tanh"] = "tanh"
    """A linear layer before the last one. tanh: followed by tanh (RoBERTa). linear: without activation (recordings)."""
    hidden_size: Annotated[int, at_least(0)] = 0
    """Channels of that layer. 0: those of the trunk."""
    dropout: Annotated[float, SHARE] = 0.0
    """Dropout before each linear layer."""
    init_std: Annotated[float, at_least(0)] = 0.02
    """Standard deviation of the initial matrices. Biases start at 0."""

    def unread_parts(self, encoder: EncoderConfig) -> tuple[str, ...]:
        """Return prefixes of parameters of a TaskNetwork on which its output does not depend. They get no gradient, so they must be
        frozen: else weight decay would change them."""
        return ("trunk.encoder.final_norm.",) if self.norm and encoder.block.normalize_before else ()

    def widths(self, trunk_size: int, num_outputs: int) -> list[int]:
        """Return the channels before and after each linear layer. `trunk_size`: channels of the trunk's output."""
        between = [] if self.hidden == "none" else [self.hidden_size or trunk_size]
        return [trunk_size, *between, num_outputs]

    def parameters(self, trunk_size: int, num_outputs: int) -> list[ParameterShape]:
        """Return the parameters. `trunk_size`: channels of the trunk's output."""
        norm = vectors(trunk_size, "norm.weight", "norm.bias") if self.norm else []
        return norm + linear_layers(self.widths(trunk_size, num_outputs))


@dataclass(frozen=True)
class MaskConfig:
    """Base of the settings that decide which positions are masked for the student. Each modality has a subclass; config.json stores its
    `kind`."""

    kind: ClassVar[str]

    def largest_share(self, num_positions: int) -> float:
        """Return an upper bound of the mean share of masked positions, in samples of `num_positions` positions."""
        return 1.0

    def expected_share(self, num_positions: int) -> float:
        """Return the mean share of positions at which the loss is computed, in samples of `num_positions` positions. The base class
        returns largest_share."""
        return self.largest_share(num_positions)


@dataclass(frozen=True)
class TokenMaskConfig(MaskConfig):
    """Which tokens of a text are masked (fairseq mask_tokens_dataset.py)."""

    kind: ClassVar[str] = "token"

    prob: Annotated[float, Bounds(above=0, most=1)] = 0.35
    """Share of tokens that the spans would cover if none overlapped."""
    length: Annotated[int, at_least(1)] = 4
    """Tokens of one span. 1 selects single tokens."""
    leave_unmasked_prob: Annotated[float, SHARE] = 0.0
    """Share of the selected tokens that stay as they are (BERT: 0.1)."""
    random_token_prob: Annotated[float, SHARE] = 0.0
    """Share of the selected tokens that are replaced by random ones (BERT: 0.1). The rest becomes `<mask>`."""
    loss_on_all_selected: bool = False
    """False, as published: the loss is taken only at `<mask>` tokens. True: at kept and random tokens too."""

    def largest_share(self, num_positions: int) -> float:
        """Return the share that the spans would cover if none overlapped."""
        return self.prob

    def expected_share(self, num_positions: int) -> float:
        """Return the mean share of tokens at which the loss is computed (token_mask of model/masking.py)."""
        lost = 1.0 if self.loss_on_all_selected else max(0.0, 1 - self.leave_unmasked_prob - self.random_token_prob)
        mean_spans = self.prob * num_positions / self.length
        return lost * mean_over_counts(
            mean_spans, lambda spans: covered_share(num_positions, num_positions, min(spans, num_positions), self.length)
        )


@dataclass(frozen=True)
class SpanMaskConfig(MaskConfig):
    """Which frames of a recording are masked (fairseq data_utils.py compute_mask_indices: spans of one length, which may overlap)."""

    kind: ClassVar[str] = "span"

    prob: Annotated[float, Bounds(above=0, most=1)] = 0.65
    """Share of frames that the spans would cover if none overlapped."""
    length: Annotated[int, at_least(1)] = 10
    """Frames of one span."""
    min_masks: Annotated[int, at_least(1)] = 1
    """Fewest spans of a sample."""

    def largest_share(self, num_positions: int) -> float:
        """Return the share that the spans would cover if none overlapped."""
        return self.prob

    def expected_share(self, num_positions: int) -> float:
        """Return the mean share of masked frames of a recording by itself (span_mask of model/masking.py). In a group of recordings, all
        get the smallest number of the group, which is a little less."""

        def share(drawn: int) -> float:
            spans = max(self.min_masks, drawn)
            return covered_share(num_positions, max(num_positions - self.length, spans + 1), spans, self.length)

        return mean_over_counts(self.prob * num_positions / self.length, share)


@dataclass(frozen=True)
class BlockMaskConfig(MaskConfig):
    """Which patches of an image are masked: rectangles laid over each other (BEiT masking_generator.py)."""

    kind: ClassVar[str] = "block"

    num_patches: Annotated[int, at_least(1)] = 120
    """Masked patches of an image. Rarely fewer, if no further rectangle fits."""
    min_block: Annotated[int, at_least(1)] = 16
    """Fewest patches of one rectangle."""
    max_block: Annotated[int, at_least(1)] = 196
    """Most patches of one rectangle."""
    min_aspect: Annotated[float, Bounds(above=0, most=1)] = 0.3
    """Smallest height / width of a rectangle. The largest is its inverse."""

    def largest_share(self, num_positions: int) -> float:
        """Return the share of the patches of an image that num_patches are."""
        return min(1.0, self.num_patches / max(1, num_positions))


@dataclass(frozen=True)
class TeacherConfig:
    """The teacher, whose weights are an average (EMA) of the student's, and the targets that it computes (paper sections 3.3 and 4)."""

    ema_decay: Annotated[float, SHARE] = 0.999
    """EMA decay at update 0 (the paper's tau_0)."""
    ema_end_decay: Annotated[float, SHARE] = 0.9999
    """EMA decay from ema_anneal_end_step on (tau_e)."""
    ema_anneal_end_step: Annotated[int, at_least(0)] = 300_000
    """Updates over which the decay grows linearly from ema_decay to ema_end_decay (tau_n)."""
    average_top_k_layers: Annotated[int, at_least(1)] = 10
    """Number of top layers whose outputs are averaged to a target (K). At most model.num_layers."""
    target: Literal["ffn", "block"] = "ffn"
    """Which output of a layer is averaged. ffn: that of the second feed-forward matrix, before dropout and residual addition. block:
    that of the whole block."""
    layer_norms: tuple[Norm, ...] = ("layer",)
    """Parameter-free norms of each layer's output before averaging. They are applied in the order batch, instance, layer."""
    average_norms: tuple[Norm, ...] = ()
    """Parameter-free norms of the average. They are applied in the order layer, instance."""
    shares: Shares = "frontend"
    """Modules that the teacher uses from the student directly, without an EMA. nothing: the EMA covers all (vision). features: the
    embedding of raw inputs (fairseq `ema_transformer_only`). frontend: that and the positions (text `ema_transformer_layers_only`,
    speech `ema_layers_only`)."""

    def decay_after(self, updates_done: int) -> float:
        """Return the EMA decay (tau) after `updates_done` updates: linear from ema_decay to ema_end_decay over the first
        ema_anneal_end_step updates, then constant.

        Source: paper section 3.2; fairseq ema_module.py get_annealed_rate.
        """
        if updates_done >= self.ema_anneal_end_step:
            return self.ema_end_decay
        return self.ema_decay + (self.ema_end_decay - self.ema_decay) * updates_done / self.ema_anneal_end_step


@dataclass(frozen=True)
class LossConfig:
    """Regression loss at the masked positions (paper section 3.4)."""

    beta: Annotated[float, at_least(0)] = 4.0
    """Difference at which smooth L1 changes from quadratic to linear. 0: squared error everywhere."""
    channels: Literal["sum", "mean"] = "sum"
    """Whether the channels of a position are summed or averaged (mean: vision)."""
    scale: Annotated[float | None, POSITIVE] = 1.0
    """Factor on the loss. None: 1/sqrt(hidden_size)."""
