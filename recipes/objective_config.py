"""The recipe's section `objective`: what a loss says about the networks that it needs. Torch-free. The sections of the objectives are in
masked_config.py and supervised_config.py, their table in objective_kinds.py; the classes that compute them are in recipes/objectives/.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from model.activations import Storage
from model.config import EncoderConfig
from model.flops import PassFlops
from model.frontends.config import FrontendConfig
from model.shapes import ParameterShape
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

    def head_parameters(self, encoder: EncoderConfig, frontend: FrontendConfig) -> list[ParameterShape]:
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
