"""The recipe's section `objective` of the losses that learn from labels (fine-tuning). Torch-free."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from model.activations import Storage
from model.bounds import SHARE, at_least
from model.config import EncoderConfig, HeadConfig
from model.flops import PassFlops, linear_flops
from model.frontends.config import FrontendConfig
from model.shapes import ParameterShape
from recipes.errors import ConfigError
from recipes.objective_config import MicroBatchShape, ObjectiveConfig
from recipes.start_config import StartConfig


@dataclass(frozen=True)
class SupervisedConfig(ObjectiveConfig):
    """Base of the objectives that learn from labels: the trunk of a pre-trained network with the head of a task (fine-tuning)."""

    inherits: ClassVar[str] = "trunk."
    evaluates_every_sample: ClassVar[bool] = True

    head: HeadConfig = field(default_factory=HeadConfig)
    frozen: Literal["nothing", "features", "trunk"] = "nothing"
    """Part of the trunk that is never trained. features: the embedding of raw inputs, such as the convolutions of speech (published for
    CTC). trunk: all but the head."""
    frozen_steps: Annotated[int, at_least(0)] = 0
    """First updates in which only the head is trained (fairseq: freeze_finetune_updates)."""

    @property
    def num_outputs(self) -> int:
        """Number of values that the head gives for a sample, or for a position."""
        raise NotImplementedError

    def beginning(self, start: StartConfig) -> str:
        """Return how the head starts."""
        return "the head begins with random weights"

    def undecided(self, recipe: Any) -> str:
        """Return what follows from the data: the labels, with the head's size, if the recipe names none, and with finetune.epochs the
        number of updates."""
        labels = [] if self.num_outputs else ["the labels, so the parameters of the head are not counted"]
        epochs = recipe.finetune.epochs
        updates = [f"the number of updates, those of {epochs:g} epochs, and the intervals of checkpoints"] if epochs else []
        return "; ".join(labels + updates)

    def head_parameters(self, encoder: EncoderConfig, frontend: FrontendConfig) -> list[ParameterShape]:
        """Return the parameters of the task's head."""
        return self.head.parameters(encoder.hidden_size, self.num_outputs)

    def trains(self, part: Literal["features", "trunk"]) -> bool:
        """True unless the part is frozen for ever."""
        return self.frozen not in (part, "trunk")

    def frozen_parameters(self, recipe: Any) -> dict[str, int | None]:
        """Return the parameters that the head does not read, and those that `frozen` and `frozen_steps` name."""
        found: dict[str, int | None] = dict.fromkeys(self.head.unread_parts(recipe.model))
        if self.frozen == "features":
            found |= {f"trunk.frontend.{part}": None for part in recipe.frontend.raw_parts}
        if self.frozen == "trunk" or self.frozen_steps:
            found["trunk."] = None if self.frozen == "trunk" else self.frozen_steps
        return found

    def head_flops(self, recipe: Any, num_positions: float) -> PassFlops:
        """Return the FLOPs of the head at the vectors that it reads. A norm of its own is trained, and needs their gradient."""
        num_vectors, widths = (
            num_positions if self.head.reads == "positions" else 1,
            self.head.widths(recipe.model.hidden_size, self.num_outputs),
        )
        return linear_flops(widths, num_vectors, needs_input_gradient=self.head.norm or self.trains("trunk"))

    def head_bytes(self, recipe: Any, storage: Storage, positions: MicroBatchShape) -> dict[str, float]:
        """Return inputs and outputs of the head's layers, outputs also in float32 with their logarithms and gradients."""
        num_vectors = positions.num_samples * (positions.own if self.head.reads == "positions" else 1)
        *inner, outputs = self.head.widths(recipe.model.hidden_size, self.num_outputs)
        return {
            "inputs of the head's layers": num_vectors * 3 * sum(inner) * storage.value_bytes,
            "outputs of the head": num_vectors * 4 * outputs * 4,
        }

    def check(self, recipe: Any) -> None:
        """Check that the front-end has features to freeze if they are frozen. Raises: ConfigError."""
        if self.frozen == "features" and not recipe.frontend.raw_parts:
            raise ConfigError(
                f"objective.frozen is features, and {recipe.modality} has no convolutions to freeze; --set objective.frozen=nothing"
            )


@dataclass(frozen=True)
class ClassifyConfig(SupervisedConfig):
    """One class for each sample: cross-entropy."""

    kind: ClassVar[str] = "classify"

    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of the head's outputs. (): those of the training data, sorted."""
    class_weights: Annotated[tuple[float, ...], at_least(0)] = ()
    """Weight of each class in the loss, in the order of labels. (): all 1, or what `balanced` gives. The loss of an update is divided by
    the number of its samples, not by the sum of their weights."""
    balanced: bool = False
    """True: rare classes weigh more: number of samples / (number of classes x samples of the class), as in scikit-learn."""
    label_smoothing: Annotated[float, SHARE] = 0.0
    """Share of each target that is spread evenly over all classes (published for images: 0.1)."""

    @property
    def num_outputs(self) -> int:
        """Number of classes."""
        return len(self.labels)


@dataclass(frozen=True)
class RegressConfig(SupervisedConfig):
    """One number for each sample: mean squared error."""

    kind: ClassVar[str] = "regress"

    @property
    def num_outputs(self) -> int:
        """1."""
        return 1


SPECIAL_LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|")
"""First symbols of every alphabet, in fairseq's order. `<pad>` is CTC's blank, `|` ends a word."""


@dataclass(frozen=True)
class CtcConfig(SupervisedConfig):
    """A transcript for each recording: connectionist temporal classification (CTC) over letters. Source: fairseq examples/wav2vec,
    config/finetuning."""

    kind: ClassVar[str] = "ctc"

    alphabet: tuple[str, ...] = ()
    """Symbols of the head's outputs, `<pad>` (CTC's blank), `<s>`, `</s>`, `<unk>` and `|` (a space) first. (): the letters of the
    training transcripts."""

    @property
    def num_outputs(self) -> int:
        """Number of symbols."""
        return len(self.alphabet)

    def check(self, recipe: Any) -> None:
        """Check that a given alphabet begins with the special symbols. Raises: ConfigError."""
        super().check(recipe)
        if self.alphabet and self.alphabet[: len(SPECIAL_LETTERS)] != SPECIAL_LETTERS:
            first, needed = ",".join(self.alphabet[: len(SPECIAL_LETTERS)]), ",".join(SPECIAL_LETTERS)
            raise ConfigError(f"objective.alphabet begins with {first}; it must begin with {needed}, and the letters follow")
