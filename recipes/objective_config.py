"""The recipe's section `objective`: which loss is minimised, and the settings of a supervised one. Torch-free. The classes that compute
them are in recipes/objectives/.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from model.activations import Storage, block_forward_bytes
from model.bounds import SHARE, at_least
from model.config import EncoderConfig, HeadConfig
from model.flops import PassFlops, linear_flops
from model.shapes import ParameterShape
from recipes.errors import ConfigError
from recipes.start_config import StartConfig


class MicroBatchShape(NamedTuple):
    """The positions of one micro-batch on one rank: samples, those of each sample itself, and those before them, such as CLS."""

    num_samples: int
    own: int
    prefix: int

    @property
    def total(self) -> int:
        """All positions of the micro-batch."""
        return self.num_samples * (self.own + self.prefix)


@dataclass(frozen=True)
class ObjectiveConfig:
    """Base of the recipe's section `objective`: the loss that is minimised, and what its networks cost. `kind` is its name in
    config.json: a key of OBJECTIVES, or "module:Class" for an objective outside of this repository, whose attribute `Config` is then a
    subclass of this one."""

    kind: ClassVar[str]
    num_teachers: ClassVar[int] = 0
    """Averaged copies of the trunk that are held beside the student."""
    inherits: ClassVar[str] = ""
    """Prefix of the parameters that a new run takes from the checkpoint in start.start_from. "": all parameters, so the checkpoint must be
    of the same objective. With a prefix it may be of any objective that has such parameters."""
    evaluates_every_sample: ClassVar[bool] = False
    """True: an evaluation counts each held-out sample exactly once. False: a few are left out, so that all ranks get equally many."""

    def head_parameters(self, encoder: EncoderConfig) -> list[ParameterShape]:
        """Return the parameters that the student has beside front-end and encoder, in the order of their modules."""
        return []

    def trains(self, part: Literal["features", "trunk"]) -> bool:
        """True if the embedding of raw inputs, or the trunk, gets a gradient in some update."""
        return True

    def frozen_parameters(self, recipe: Any) -> dict[str, int | None]:
        """Return which parameters of the student the optimizer leaves alone: prefix of their names -> number of first updates, or None for
        ever."""
        return {}

    def head_flops(self, recipe: Any, num_positions: float) -> PassFlops:
        """Return the FLOPs of the student's head on one sample of `num_positions` positions without prefix tokens. The base class, for a
        small head, returns none."""
        return PassFlops()

    def further_flops(self, recipe: Any, num_positions: float) -> dict[str, float]:
        """Return the FLOPs of the forwards of further networks on one sample of `num_positions` positions, by part; {} if there are no
        such networks. The names must differ from those of the student's parts."""
        return {}

    def head_bytes(self, recipe: Any, storage: Storage, positions: MicroBatchShape) -> dict[str, float]:
        """Return what the student's head and the loss keep for the backward, by tensor, in bytes for each micro-batch. Torch-free
        arithmetic for the choice of the micro-batch; {} where the head is small."""
        return {}

    def last_block_share(self, recipe: Any, positions: MicroBatchShape) -> float:
        """Return the share of the positions at which the student's last block computes its output, at most."""
        return 1.0

    def mean_block_share(self, recipe: Any, positions: MicroBatchShape) -> float:
        """Return that share on average."""
        return self.last_block_share(recipe, positions)

    def further_forward_bytes(self, recipe: Any, storage: Storage, positions: MicroBatchShape) -> dict[str, float]:
        """Return what the forwards of further networks need, by tensor, in bytes for each micro-batch. They run while the student keeps all
        that its backward reads."""
        return {}

    def check(self, recipe: Any) -> None:
        """Check that the recipe's settings do not contradict this objective. Raises: ConfigError."""

    def beginning(self, start: StartConfig) -> str:
        """Return what this objective has at the start beside the weights of the checkpoint that `start` names, for the terminal; "" if it
        has nothing else."""
        return start.in_words if self.num_teachers else ""

    def undecided(self, recipe: Any) -> str:
        """Return which settings of the recipe follow from its data and are still open, for a dry run; "" if there are none."""
        return ""


@dataclass(frozen=True)
class Data2VecConfig(ObjectiveConfig):
    """data2vec 1.0. It has no settings here; they are in the sections teacher and loss."""

    kind: ClassVar[str] = "data2vec"
    num_teachers: ClassVar[int] = 1

    def head_parameters(self, encoder: EncoderConfig) -> list[ParameterShape]:
        """Return the parameters of the regression head."""
        return encoder.head_parameters

    def head_flops(self, recipe: Any, num_positions: float) -> PassFlops:
        """Return the FLOPs of the regression head at the masked positions of a sample, on average."""
        return linear_flops(recipe.model.head_widths, num_positions * recipe.mask.expected_share(round(num_positions)))

    def further_flops(self, recipe: Any, num_positions: float) -> dict[str, float]:
        """Return the FLOPs of the teacher's forward. It reads the student's embedded input unless teacher.shares is "nothing"."""
        front = recipe.frontend.forward_flops(recipe.model, num_positions)
        blocks = recipe.model.forward_flops(num_positions + recipe.frontend.num_prefix_tokens)
        parts = {"front-end": front.forward if recipe.teacher.shares == "nothing" else front.positions} | blocks
        return {f"teacher {name}": flops for name, flops in parts.items()}

    def head_bytes(self, recipe: Any, storage: Storage, positions: MicroBatchShape) -> dict[str, float]:
        """Return the tensors of the masked positions: inputs and outputs of the head's layers."""
        masked = positions.total * self.last_block_share(recipe, positions)
        first, *inner, last = recipe.model.head_widths if recipe.model.head_layers else [0, 0]
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

    def head_parameters(self, encoder: EncoderConfig) -> list[ParameterShape]:
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


OBJECTIVES: dict[str, type[ObjectiveConfig]] = {one.kind: one for one in (Data2VecConfig, ClassifyConfig, RegressConfig, CtcConfig)}
"""The sections of the house's objectives, by kind."""
