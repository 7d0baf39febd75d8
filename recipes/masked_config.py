"""The recipe's section `objective` of the losses that are computed at masked positions: data2vec, and two that predict the input itself.
Torch-free."""

from dataclasses import dataclass
from typing import Any, ClassVar

from model.activations import Storage, block_forward_bytes
from model.config import EncoderConfig
from model.flops import PassFlops, linear_flops
from model.frontends.config import FrontendConfig, TextFrontendConfig, VisionFrontendConfig
from model.shapes import ParameterShape, linear_layers
from recipes.errors import ConfigError
from recipes.objective_config import MicroBatchShape, ObjectiveConfig


@dataclass(frozen=True)
class MaskedConfig(ObjectiveConfig):
    """Base of the objectives that predict something at the masked positions, with a head of model.head_layers linear layers."""

    def num_outputs(self, encoder: EncoderConfig, frontend: FrontendConfig) -> int:
        """Return how many numbers are predicted at a position."""
        raise NotImplementedError

    def head_widths(self, encoder: EncoderConfig, frontend: FrontendConfig) -> list[int]:
        """Return the channels before and after each linear layer of the head."""
        return encoder.head_widths(self.num_outputs(encoder, frontend))

    def head_parameters(self, encoder: EncoderConfig, frontend: FrontendConfig) -> list[ParameterShape]:
        """Return the parameters of the head."""
        return linear_layers(self.head_widths(encoder, frontend))

    def head_flops(self, recipe: Any, num_positions: float) -> PassFlops:
        """Return the FLOPs of the head at the masked positions of a sample, on average."""
        widths = self.head_widths(recipe.model, recipe.frontend)
        return linear_flops(widths, num_positions * recipe.mask.expected_share(round(num_positions)))

    def head_bytes(self, recipe: Any, storage: Storage, positions: MicroBatchShape) -> dict[str, float]:
        """Return the tensors of the masked positions: inputs and outputs of the head's layers."""
        masked = positions.total * self.last_block_share(recipe, positions)
        widths = self.head_widths(recipe.model, recipe.frontend)
        first, *inner, last = widths if recipe.model.head_layers else [0, 0]
        return {
            "input of the head": masked * first * storage.value_bytes,
            "inner layers of the head, before and after the activation": masked * 2 * sum(inner) * storage.value_bytes,
            "predictions": masked * last * storage.value_bytes,
        }

    def last_block_share(self, recipe: Any, positions: MicroBatchShape) -> float:
        """Return the largest share of masked positions: the loss reads no other."""
        return positions.num_samples * positions.own * recipe.mask.largest_share(positions.own) / positions.total

    def mean_block_share(self, recipe: Any, positions: MicroBatchShape) -> float:
        """Return the mean share of masked positions."""
        return positions.num_samples * positions.own * recipe.mask.expected_share(positions.own) / positions.total


@dataclass(frozen=True)
class Data2VecConfig(MaskedConfig):
    """data2vec 1.0. It has no settings here; they are in the sections teacher and loss."""

    kind: ClassVar[str] = "data2vec"
    num_teachers: ClassVar[int] = 1

    def num_outputs(self, encoder: EncoderConfig, frontend: FrontendConfig) -> int:
        """Return the channels of a target: those of the encoder."""
        return encoder.hidden_size

    def further_flops(self, recipe: Any, num_positions: float) -> dict[str, float]:
        """Return the FLOPs of the teacher's forward. It reads the student's embedded input unless teacher.shares is "nothing"."""
        front = recipe.frontend.forward_flops(recipe.model, num_positions)
        blocks = recipe.model.forward_flops(num_positions + recipe.frontend.num_prefix_tokens)
        parts = {"front-end": front.forward if recipe.teacher.shares == "nothing" else front.positions} | blocks
        return {f"teacher {name}": flops for name, flops in parts.items()}

    def further_forward_bytes(self, recipe: Any, storage: Storage, positions: MicroBatchShape) -> dict[str, float]:
        """Return what the teacher's forward needs at its largest: either in its last block, or while its layers are averaged."""
        D, value, top = recipe.model.hidden_size, storage.value_bytes, recipe.teacher.average_top_k_layers
        in_block = 2 * (top - 1) * D * value + sum(block_forward_bytes(recipe.model, storage).values())
        # float32: one layer's output as a copy, normalized, and the sum before and after
        averaging = 2 * top * D * value + (3 + (value < 4)) * D * 4
        own_features = D * value * (recipe.teacher.shares == "nothing")
        return {
            "embedded input of the teacher": positions.total * (D * value + own_features),
            "outputs of the teacher's layers": positions.total * max(in_block, averaging),
        }

    def check(self, recipe: Any) -> None:
        """Check that the teacher averages at least one layer, and not more than the encoder has (teacher.average_top_k_layers). Raises:
        ConfigError."""
        top, layers = recipe.teacher.average_top_k_layers, recipe.model.num_layers
        if not 1 <= top <= layers:
            raise ConfigError(
                f"teacher.average_top_k_layers {top} of model.num_layers {layers}; "
                f"use --set teacher.average_top_k_layers=N with N from 1 to {layers}"
            )


@dataclass(frozen=True)
class InputConfig(MaskedConfig):
    """Base of the objectives that predict the input itself at masked positions. There is no teacher; the sections teacher and loss are not
    used. They are controls for data2vec: the same trunk, masks and data with another target."""

    reads: ClassVar[type[FrontendConfig]]
    """Front-end whose input can be predicted."""

    def head_bytes(self, recipe: Any, storage: Storage, positions: MicroBatchShape) -> dict[str, float]:
        """Return the tensors of the head, and in float32 its outputs with their logarithms or errors and gradients."""
        masked = positions.total * self.last_block_share(recipe, positions)
        loss = 3 * masked * self.num_outputs(recipe.model, recipe.frontend) * 4
        return super().head_bytes(recipe, storage, positions) | {"outputs of the head in float32": loss}

    def check(self, recipe: Any) -> None:
        """Check that the modality has such an input, and that the network has a head. Raises: ConfigError."""
        if not isinstance(recipe.frontend, self.reads):
            raise ConfigError(
                f"objective.kind {self.kind} is for {self.reads.kind}, and recipe {recipe.name} is of modality {recipe.modality}; "
                "use objective.kind=data2vec"
            )
        if not recipe.model.head_layers:
            raise ConfigError(f"model.head_layers 0 with objective.kind {self.kind}, which needs a head; use --set model.head_layers=1")


@dataclass(frozen=True)
class MlmConfig(InputConfig):
    """Masked language modelling: cross-entropy over the vocabulary at each masked token. Source: BERT (arXiv 1810.04805, section 3.1). The
    output layer is not tied to the embeddings."""

    kind: ClassVar[str] = "mlm"
    reads: ClassVar[type[FrontendConfig]] = TextFrontendConfig

    def num_outputs(self, encoder: EncoderConfig, frontend: FrontendConfig) -> int:
        """Return the size of the vocabulary."""
        assert isinstance(frontend, TextFrontendConfig)
        return frontend.vocab_size


@dataclass(frozen=True)
class PixelsConfig(InputConfig):
    """Regression of the pixels of each masked patch: mean squared error. Source: MAE (arXiv 2111.06377, section 3); as in SimMIM (arXiv
    2111.09886) the encoder reads mask vectors, and the head is linear."""

    kind: ClassVar[str] = "pixels"
    reads: ClassVar[type[FrontendConfig]] = VisionFrontendConfig

    normalize: bool = True
    """True: the pixels of each patch have zero mean and unit variance (MAE: norm_pix_loss)."""

    def num_outputs(self, encoder: EncoderConfig, frontend: FrontendConfig) -> int:
        """Return the pixels of a patch, in all colours."""
        assert isinstance(frontend, VisionFrontendConfig)
        return frontend.num_channels * frontend.patch_size**2
