"""Text front-end: token ids -> embedded tokens, with absolute positions or a relative bias. Masks are already in the ids.

Shapes: B batch, S sequence, D hidden, H local heads.
"""

import torch
from torch import Tensor, nn

from model.batch import Segments
from model.config import EncoderConfig, Shares
from model.dropout import Dropout, DropoutStream
from model.frontends.config import TextFrontendConfig
from model.frontends.output import Frontend, FrontendOutput
from model.init import Init
from model.parallel import Parallel
from model.positions import RelativeBias
from model.sums import LayerNorm, embedding
from model.tensor_parallel import TokenEmbedding

BOS, PAD, EOS, UNK = range(4)  # fairseq's and RoBERTa's first ids


class TextFrontend(Frontend):
    """Embeds token ids, the encoder's input: token embedding, plus learned positions if they are absolute, LayerNorm, dropout, zeros at
    padding.

    Source: fairseq transformer_encoder.py forward_embedding and learned_positional_embedding.py. Rows of the token table from vocab_size
    on are 0: they are never looked up and never trained.
    """

    def __init__(self, config: TextFrontendConfig, encoder: EncoderConfig, init: Init, parallel: Parallel, stream: DropoutStream) -> None:
        super().__init__()
        rows = config.padded_vocab_size
        unused = [PAD, *range(config.vocab_size, rows)]
        self.tokens = TokenEmbedding(rows, encoder.hidden_size, init.at("tokens"), config.embedding_init_std, parallel, zero_rows=unused)
        self.positions: PositionTable | None = None
        self.relative_bias: RelativeBias | None = None
        if config.positions == "absolute":
            self.positions = PositionTable(config.max_positions, encoder.hidden_size, init.at("positions"), config.embedding_init_std)
        else:
            self.relative_bias = RelativeBias(encoder.num_attention_heads, config.max_positions, parallel)
        self.norm = LayerNorm(encoder.hidden_size, encoder.block.layernorm_epsilon)
        self.dropout = Dropout(encoder.hidden_dropout, stream, site=0)

    def forward(
        self,
        ids_BS: Tensor,
        mask_BS: Tensor | None,
        padding_mask_BS: Tensor | None,
        features_BSD: Tensor | None = None,
        *,
        segments: Segments | None = None,
    ) -> FrontendOutput:
        """Embed token ids. Return the encoder's input (batch, S, channels) and, with relative positions, the attention bias (1, local
        heads, S, S). mask_BS is not read, since masked positions have the id of `<mask>`. features_BSD must be None: student and teacher
        read different ids. `segments`: absolute positions start again at each sample of a row."""
        assert features_BSD is None
        x_BSD = self.tokens(ids_BS)
        if self.positions is not None:
            x_BSD = x_BSD + self.positions(ids_BS.shape[1], padding_mask_BS, segments)
        x_BSD = self.dropout(self.norm(x_BSD))
        if padding_mask_BS is not None:
            x_BSD = x_BSD.masked_fill(padding_mask_BS.unsqueeze(-1), 0.0)
        bias_HSS = None if self.relative_bias is None else self.relative_bias(ids_BS.shape[1])
        bias_LHSS = None if bias_HSS is None else bias_HSS.unsqueeze(0)
        return FrontendOutput(x_BSD, bias_LHSS, segment_BS=None if segments is None else segments.segment_BS)

    def shared_parameters(self, shares: Shares) -> set[str]:
        """Return the names of the parameters that the teacher copies: none if `shares` is "nothing", else all but the attention bias,
        which belongs to the blocks."""
        if shares == "nothing":
            return set()
        return {name for name, _ in self.named_parameters() if not name.startswith("relative_bias.")}


class PositionTable(nn.Module):
    """Learned embeddings of absolute positions. Padding has no position and does not count: the first real token has row PAD + 1 of the
    table, the second PAD + 2."""

    def __init__(self, max_positions: int, hidden_size: int, init: Init, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_positions + PAD + 1, hidden_size))
        init.at("weight").fill_normal(self.weight.data, std)
        self.weight.data[PAD] = 0

    def forward(self, S: int, padding_mask_BS: Tensor | None, segments: Segments | None = None) -> Tensor:
        """Return the position embeddings of S positions: (S, channels) without padding and segments, else (batch, S, channels). Those at
        padding are 0. Positions are counted from the start of the row, or from that of each sample in it (`segments`)."""
        if segments is not None:
            rows_BS = (segments.position_BS + PAD + 1).masked_fill(segments.segment_BS < 0, PAD)
            return embedding(rows_BS, self.weight, padding_idx=PAD)
        if padding_mask_BS is None:
            return self.weight[PAD + 1 : PAD + 1 + S]
        keep_BS = ~padding_mask_BS
        rows_BS = torch.cumsum(keep_BS, dim=1) * keep_BS + PAD
        return embedding(rows_BS, self.weight, padding_idx=PAD)
