"""Settings of speech's front-end and the arithmetic that follows from them: parameters, FLOPs, lengths. Torch-free."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from model.activations import Storage, TensorBytes, extractor_bytes
from model.bounds import at_least
from model.config import EncoderConfig
from model.flops import FrontendFlops
from model.frontends.config import FrontendConfig
from model.shapes import ParameterShape, vectors


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

    def parameters(self, encoder: EncoderConfig) -> list[ParameterShape]:
        """Return the parameters: mask vector, extractor, norm and projection, positional convolutions, and the LayerNorm before post-LN
        blocks."""
        C, D = self.conv_dim, encoder.hidden_size
        norm = [] if encoder.block.normalize_before else vectors(D, "norm.weight", "norm.bias")
        return [
            *vectors(D, "mask_vector"),
            *self._extractor_parameters(),
            *vectors(C, "feature_norm.weight", "feature_norm.bias"),
            ParameterShape("projection.weight", (D, C)),
            *vectors(D, "projection.bias"),
            *self._position_parameters(D),
            *norm,
        ]

    def _extractor_parameters(self) -> list[ParameterShape]:
        C, found = self.conv_dim, list[ParameterShape]()
        for number, kernel in enumerate(self.conv_kernels):
            layer = [ParameterShape("conv.weight", (C, C if number else 1, kernel)), *(vectors(C, "conv.bias") if self.conv_bias else [])]
            if self.extractor_norm == "layer" or number == 0:
                layer += vectors(C, "norm.weight", "norm.bias")
            found += [shape.inside(f"extractor.layers.{number}") for shape in layer]
        return found

    def _position_parameters(self, hidden_size: int) -> list[ParameterShape]:
        D, kernel, shape = hidden_size, self.pos_conv_kernel, (hidden_size, hidden_size // self.pos_conv_groups, self.pos_conv_kernel)
        if self.pos_conv_depth == 1:
            weights = [ParameterShape("weight_v", shape), ParameterShape("weight_g", (1, 1, kernel))]
        else:
            weights = [ParameterShape("weight", shape)]
        return [one.inside(f"positions.layers.{i}") for i in range(self.pos_conv_depth) for one in [*weights, *vectors(D, "bias")]]

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
