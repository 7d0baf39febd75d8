"""Speech front-end: waveform -> convolutional features -> masked frames -> positions by convolution. Draws no mask.

Shapes: B batch, T raw samples (in layers: frames), C convolution channels, S = N frames of the encoder, D hidden.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import EncoderConfig, Shares
from model.dropout import Dropout, DropoutStream
from model.frontends.output import Frontend, FrontendOutput
from model.frontends.speech_config import SpeechFrontendConfig
from model.frontends.strided_conv import StridedConv
from model.init import Init, UniformLinear
from model.parallel import Parallel
from model.sums import LayerNorm

FEATURES = ("extractor.", "feature_norm.", "projection.", "mask_vector")
"""Prefixes of the names of the parameters that embed the raw input."""


class SpeechFrontend(Frontend):
    """Embeds a waveform as frames, the encoder's input: convolutions, LayerNorm, projection (its output are the features), mask vector
    at masked frames, zeros at padding, plus positional convolutions, LayerNorm (post-LN blocks only), dropout. Every tensor-parallel
    rank holds all of it.

    Padding masks are over frames. fairseq also pads to an even number of frames, masks the extra frame in the attention and removes it.
    That changes no number, so it is not done here.

    Source: fairseq wav2vec2.py and data2vec_audio.py, base_librispeech.yaml.
    """

    def __init__(self, config: SpeechFrontendConfig, encoder: EncoderConfig, init: Init, parallel: Parallel, stream: DropoutStream) -> None:
        super().__init__()
        D = encoder.hidden_size
        self.extractor = Extractor(config, init.at("extractor"))
        self.feature_norm = LayerNorm(config.conv_dim)
        self.projection = UniformLinear(config.conv_dim, D, init.at("projection"))
        self.mask_vector = nn.Parameter(torch.empty(D))
        init.at("mask_vector").fill_uniform(self.mask_vector.data, 0.0, 1.0)
        self.positions = Positions(config, D, init.at("positions"))
        self.norm = nn.Identity() if encoder.block.normalize_before else LayerNorm(D, encoder.block.layernorm_epsilon)
        self.dropout = Dropout(encoder.hidden_dropout, stream, site=0)

    def forward(
        self,
        inputs_BT: Tensor,
        mask_BS: Tensor | None,
        padding_mask_BS: Tensor | None,
        features_BND: Tensor | None = None,
        channel_mask_BD: Tensor | None = None,
    ) -> FrontendOutput:
        """Embed a waveform. Return the encoder's input (B, S, D), and the features of every frame before masking. `features_BND`, if
        given, is read in place of the waveform. mask_BS is True where the mask vector replaces a frame, padding_mask_BS at padded
        frames, channel_mask_BD at channels that are 0 in all frames (fairseq apply_mask)."""
        dtype = self.mask_vector.dtype
        if features_BND is None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freezes_features):
                extracted_BSC = self.extractor(inputs_BT.to(dtype), padding_mask_BS)
            features_BND = self.projection(self.feature_norm(extracted_BSC))
        x_BSD = features_BND.to(dtype)
        if mask_BS is not None:
            x_BSD = torch.where(mask_BS.unsqueeze(-1), self.mask_vector, x_BSD)
        if channel_mask_BD is not None:
            x_BSD = x_BSD.masked_fill(channel_mask_BD.unsqueeze(1), 0.0)
        if padding_mask_BS is not None:
            x_BSD = x_BSD.masked_fill(padding_mask_BS.unsqueeze(-1), 0.0)
        x_BSD = x_BSD + self.positions(x_BSD, padding_mask_BS)
        return FrontendOutput(self.dropout(self.norm(x_BSD)), features_BND=features_BND.detach())

    def shared_parameters(self, shares: Shares) -> set[str]:
        """Return the names of the parameters that the teacher copies from the student. "nothing": none. "features": those that embed the
        waveform. "frontend": these and the positional convolutions. The LayerNorm after them is always averaged, as in fairseq."""
        prefixes = {"nothing": (), "features": FEATURES, "frontend": (*FEATURES, "positions.")}[shares]
        return {name for name, _ in self.named_parameters() if name.startswith(prefixes)}


class Extractor(nn.Module):
    """The strided convolutions, without padding, that turn a waveform into frames."""

    def __init__(self, config: SpeechFrontendConfig, init: Init) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(ExtractorLayer(config, number, init.at("layers", number)) for number in range(len(config.conv_kernels)))

    def forward(self, inputs_BT: Tensor, padding_mask_BS: Tensor | None = None) -> Tensor:
        """Return the frames of each waveform. padding_mask_BS is True at padded frames. Shapes: (batch, raw samples) -> (batch, frames,
        channels)."""
        x = self.layers[0](inputs_BT.unsqueeze(-1), self._own_of_first(inputs_BT, padding_mask_BS))
        for layer in self.layers[1:]:
            x = layer(x)
        return x

    def _own_of_first(self, inputs_BT: Tensor, padding_mask_BS: Tensor | None) -> Tensor | None:
        """Return how many outputs of the first convolution the frames of each waveform read, (batch,); None if no norm needs it."""
        config = self.config
        if not config.exact_statistics or config.extractor_norm != "group":
            return None
        if padding_mask_BS is None:
            frames_B = torch.full((len(inputs_BT),), config.num_frames(inputs_BT.shape[1]), device=inputs_BT.device)
        else:
            frames_B = (~padding_mask_BS).sum(1)
        return (frames_B - 1) * config.first_stride + config.first_field


class ExtractorLayer(nn.Module):
    """One layer of the extractor: convolution over time -> norm, if the settings have one here -> exact GELU."""

    def __init__(self, config: SpeechFrontendConfig, number: int, init: Init) -> None:
        super().__init__()
        C = config.conv_dim
        self.conv = StridedConv(
            C if number else 1, C, config.conv_kernels[number], config.conv_strides[number], bias=config.conv_bias, init=init.at("conv")
        )
        self.norm: nn.Module = nn.Identity()
        if config.extractor_norm == "layer":
            self.norm = LayerNorm(C)
        elif number == 0:
            self.norm = TimeNorm(C, C)

    def forward(self, x_BTC: Tensor, own_B: Tensor | None = None) -> Tensor:
        """Apply convolution, norm and GELU. `own_B`: as for TimeNorm, only with such a norm. Shapes: (batch, frames in, channels in) ->
        (batch, fewer frames, channels)."""
        x_BTC = self.conv(x_BTC)
        return F.gelu(self.norm(x_BTC) if own_B is None else self.norm(x_BTC, own_B))


class TimeNorm(nn.GroupNorm):
    """Normalises each channel of a sample over its frames (wav2vec 2.0 Base)."""

    def forward(self, x_BTC: Tensor, own_B: Tensor | None = None) -> Tensor:
        """Normalise each channel of each sample over time. The statistics are those of its first `own_B` frames; None: of all, padding
        included. Shapes: x (batch, frames, channels) in and out, own (batch,)."""
        if own_B is None:
            return super().forward(x_BTC.transpose(1, 2)).transpose(1, 2)
        wide_BTC = x_BTC.to(torch.promote_types(x_BTC.dtype, torch.float32))  # sums of 16-bit numbers over thousands of frames are inexact
        other_BT1 = (torch.arange(x_BTC.shape[1], device=x_BTC.device) >= own_B.unsqueeze(1)).unsqueeze(-1)
        count_B11 = own_B.clamp(min=1)[:, None, None]
        centred_BTC = wide_BTC - wide_BTC.masked_fill(other_BT1, 0.0).sum(1, keepdim=True) / count_B11
        variance_B1C = centred_BTC.masked_fill(other_BT1, 0.0).square().sum(1, keepdim=True) / count_B11
        return (centred_BTC * torch.rsqrt(variance_B1C + self.eps) * self.weight + self.bias).to(x_BTC.dtype)


class Positions(nn.Module):
    """Convolutions over the frames whose output encodes positions and is added to the frames: a stack of narrow ones, or a single wide
    one."""

    def __init__(self, config: SpeechFrontendConfig, hidden_size: int, init: Init) -> None:
        super().__init__()
        kind = WeightNormedConv if config.pos_conv_depth == 1 else PositionalConv
        self.layers = nn.ModuleList(
            kind(hidden_size, config.pos_conv_kernel, config.pos_conv_groups, init.at("layers", number))
            for number in range(config.pos_conv_depth)
        )
        self.exact_padding = config.exact_padding

    def forward(self, x_BSD: Tensor, padding_mask_BS: Tensor | None) -> Tensor:
        """Return the positional encoding of the frames x, which must be 0 at padding. Shapes: (batch, frames, channels) in and out."""
        for number, layer in enumerate(self.layers):
            if self.exact_padding and number and padding_mask_BS is not None:
                x_BSD = x_BSD.masked_fill(padding_mask_BS.unsqueeze(-1), 0.0)
            x_BSD = layer(x_BSD)
        return x_BSD


class PositionalConv(nn.Conv1d):
    """Grouped convolution over time -> LayerNorm over channels, without parameters -> GELU. The number of frames stays. It starts with
    torch's initial values."""

    def __init__(self, hidden_size: int, kernel: int, groups: int, init: Init) -> None:
        self._init = init
        super().__init__(hidden_size, hidden_size, kernel, padding=kernel // 2, groups=groups)

    def reset_parameters(self) -> None:
        """Write the initial values. nn.Conv1d's constructor calls this method. Later no whole parameter can be written: DeepSpeed's
        zero.Init partitions them when the constructor returns."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        self._init.at("weight").fill_uniform(self.weight.data, -bound, bound)
        assert self.bias is not None
        self._init.at("bias").fill_uniform(self.bias.data, -bound, bound)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Apply convolution, norm and GELU. Shapes: (batch, frames, channels) in and out."""
        y_BSD = super().forward(x_BSD.transpose(1, 2)).transpose(1, 2)[:, : x_BSD.shape[1]]
        return F.gelu(F.layer_norm(y_BSD, y_BSD.shape[-1:]))


class WeightNormedConv(nn.Module):
    """One wide grouped convolution over time -> GELU. Its weight is g * v / |v|, with one norm for each tap, over both channel
    dimensions.

    g and v are ordinary parameters. torch's weight_norm would make them after the constructor, and ZeRO-3 would not partition them.
    Source: fairseq wav2vec2.py make_conv_pos.
    """

    def __init__(self, hidden_size: int, kernel: int, groups: int, init: Init) -> None:
        super().__init__()
        self.groups = groups
        self.weight_v = nn.Parameter(torch.empty(hidden_size, hidden_size // groups, kernel))
        init.whole().at("weight_v").fill_normal(self.weight_v.data, math.sqrt(4 / (kernel * hidden_size)))
        self.weight_g = nn.Parameter(torch.empty(1, 1, kernel))  # needs all of v, also on a rank that keeps a part of it
        self.weight_g.data.copy_(_tap_norm(self.weight_v.data))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Apply the weight-normed convolution and GELU. Shapes: (batch, frames, channels) in and out."""
        weight = self.weight_v * (self.weight_g / _tap_norm(self.weight_v))
        y_BDS = F.conv1d(x_BSD.transpose(1, 2), weight, self.bias, padding=weight.shape[2] // 2, groups=self.groups)
        return F.gelu(y_BDS[:, :, : x_BSD.shape[1]]).transpose(1, 2)


def _tap_norm(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=(0, 1), keepdim=True)
