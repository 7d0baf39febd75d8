"""Reference versions of the speech and vision front-ends, from the published descriptions, with plain torch modules and loops, as
functions of a front-end's parameters by name. They use only the settings of model/.

Shapes: B batch, T raw samples, C channels, S frames or patches with CLS, N patches, D hidden, H W pixels.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from model.config import EncoderConfig
from model.frontends.config import VisionFrontendConfig
from model.frontends.speech_config import SpeechFrontendConfig

Weights = dict[str, Tensor]


def gelu(x: Tensor) -> Tensor:
    """Exact GELU by its formula."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def norm_over_channels(x_BCT: Tensor, weights: Weights | None = None, name: str = "") -> Tensor:
    """LayerNorm over dimension 1, with the affine parameters `name`.{weight,bias} if weights are given."""
    centred = x_BCT - x_BCT.mean(1, keepdim=True)
    x_BCT = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return x_BCT if weights is None else x_BCT * weights[f"{name}.weight"][:, None] + weights[f"{name}.bias"][:, None]


def put(module: nn.Module, **values: Tensor | None) -> nn.Module:
    """Overwrite parameters of the module and return it."""
    for name, value in values.items():
        if value is not None:
            module.get_parameter(name).data = value
    return module


def reference_features(weights: Weights, inputs_BT: Tensor, config: SpeechFrontendConfig) -> Tensor:
    """Return the projected features before any mask, (B, D, S)."""
    x_BCT = inputs_BT[:, None]
    for i, (kernel, stride) in enumerate(zip(config.conv_kernels, config.conv_strides, strict=True)):
        conv = nn.Conv1d(x_BCT.shape[1], config.conv_dim, kernel, stride, bias=config.conv_bias)
        place = f"extractor.layers.{i}"
        x_BCT = put(conv, weight=weights[f"{place}.conv.weight"], bias=weights.get(f"{place}.conv.bias"))(x_BCT)
        if config.extractor_norm == "layer":
            x_BCT = norm_over_channels(x_BCT, weights, f"{place}.norm")
        elif i == 0:
            norm = nn.GroupNorm(config.conv_dim, config.conv_dim)
            x_BCT = put(norm, weight=weights[f"{place}.norm.weight"], bias=weights[f"{place}.norm.bias"])(x_BCT)
        x_BCT = gelu(x_BCT)
    x_BCT = norm_over_channels(x_BCT, weights, "feature_norm")
    return torch.einsum("dc,bcs->bds", weights["projection.weight"], x_BCT) + weights["projection.bias"][:, None]


def reference_positions(weights: Weights, x_BDS: Tensor, config: SpeechFrontendConfig, padding_BS: Tensor | None) -> Tensor:
    """Return the positions that are added to the frames, (B, D, S)."""
    D, kernel, y_BDS = x_BDS.shape[1], config.pos_conv_kernel, x_BDS
    for i in range(config.pos_conv_depth):
        if config.exact_padding and padding_BS is not None:
            y_BDS = y_BDS * (~padding_BS[:, None])
        conv = nn.Conv1d(D, D, kernel, padding=kernel // 2, groups=config.pos_conv_groups)
        put(conv, bias=weights[f"positions.layers.{i}.bias"])
        if config.pos_conv_depth == 1:
            conv = parametrizations.weight_norm(conv, dim=2)
            g, v = weights["positions.layers.0.weight_g"], weights["positions.layers.0.weight_v"]
            put(conv, **{"parametrizations.weight.original0": g, "parametrizations.weight.original1": v})
        else:
            put(conv, weight=weights[f"positions.layers.{i}.weight"])
        y_BDS = conv(y_BDS)
        if kernel % 2 == 0:
            y_BDS = y_BDS[:, :, :-1]
        if config.pos_conv_depth > 1:
            y_BDS = norm_over_channels(y_BDS)
        y_BDS = gelu(y_BDS)
    return y_BDS


def reference_speech(
    weights: Weights,
    inputs_BT: Tensor,
    config: SpeechFrontendConfig,
    encoder: EncoderConfig,
    *,
    mask_BS: Tensor | None = None,
    padding_BS: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (encoder input, features), both (B, S, D). Source: fairseq wav2vec2.py, data2vec_audio.py; see data2vec.md 2.2."""
    features_BDS = reference_features(weights, inputs_BT, config)
    x_BDS = features_BDS.clone()
    for b in range(x_BDS.shape[0]):
        for s in range(x_BDS.shape[2]):
            if mask_BS is not None and mask_BS[b, s]:
                x_BDS[b, :, s] = weights["mask_vector"]
            if padding_BS is not None and padding_BS[b, s]:
                x_BDS[b, :, s] = 0
    x_BDS = x_BDS + reference_positions(weights, x_BDS, config, padding_BS)
    if not encoder.block.normalize_before:
        x_BDS = norm_over_channels(x_BDS, weights, "norm")
    return x_BDS.transpose(1, 2), features_BDS.transpose(1, 2)


def reference_vision(
    weights: Weights, pixels_BCHW: Tensor, config: VisionFrontendConfig, *, mask_BN: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return (encoder input (B, N + 1, D), features (B, N, D)), computed patch by patch. Source: BEiT; see data2vec.md 2.3."""
    p, rows = config.patch_size, []
    for b in range(len(pixels_BCHW)):
        for n in range(config.grid**2):
            top, left = n // config.grid * p, n % config.grid * p
            patch_CHW = pixels_BCHW[b, :, top : top + p, left : left + p]
            rows.append((weights["patches.weight"] * patch_CHW).sum((1, 2, 3)) + weights["patches.bias"])
    features_BND = torch.stack(rows).view(len(pixels_BCHW), config.grid**2, -1)
    x_BND = features_BND.clone()
    if mask_BN is not None:
        x_BND[mask_BN] = weights["mask_vector"]
    return torch.stack([torch.cat([weights["cls_vector"][None], x_ND]) for x_ND in x_BND]), features_BND
