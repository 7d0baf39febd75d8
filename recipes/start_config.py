"""The recipe's section `start`: with which weights a new run begins. Torch-free. The checkpoint that it names is found and checked in
recipes/train/origin.py."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from model.bounds import Place

START_FROM = "start.start_from"
"""Dotted name of the setting that names the run, for messages."""


@dataclass(frozen=True)
class StartConfig:
    """With which weights a new run begins. A run that has begun keeps its start: giving none when it is resumed changes nothing."""

    RESTARTED: ClassVar[str] = "start.teacher=student"
    """The assignment under which a checkpoint of the student alone is enough."""

    start_from: Annotated[str | None, Place()] = None
    """Run dir (its newest checkpoint) or checkpoint folder whose student weights a new run begins with, on any number of ranks. Counters,
    moments, schedule, loss scale and data begin at 0. A text run also gets that run's tokenizer. None: random weights."""
    teacher: Literal["student", "stored"] = "student"
    """The first weights of the teacher if start_from is set. student: those of the student. stored: the teacher's in the checkpoint."""
    required: bool = False
    """True: this recipe continues the weights of another run, so a new run without start_from is refused."""

    @property
    def is_restarted(self) -> bool:
        """True if what the objective holds beside the student is made from the student, and not read from the checkpoint."""
        return self.teacher == "student"

    @property
    def follower(self) -> str:
        """The assignment of the setting that decides what follows the student at the start."""
        return f"start.teacher={self.teacher}"

    @property
    def in_words(self) -> str:
        """What follows the student at the start, for the terminal."""
        return "the teacher begins as the student" if self.is_restarted else "the teacher begins as the one stored there"
