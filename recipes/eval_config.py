"""The recipe's section `eval`: what is measured beside the loss while a run trains. Torch-free."""

from dataclasses import dataclass
from typing import Annotated, Literal

from model.bounds import Place, at_least


@dataclass(frozen=True)
class EvalConfig:
    """Which evaluation is the best one, when a run stops early, and the probe that runs while a network is pre-trained."""

    metric: str = ""
    """Held-out metric that decides which checkpoint is the best, such as accuracy or eval_loss. The best one is kept as
    checkpoints/best. "": none is kept."""
    goal: Literal["max", "min"] = "max"
    """max: a larger metric is better. min: a smaller one is."""
    patience: Annotated[int, at_least(0)] = 0
    """Evaluations without a better metric after which the run ends. 0: it never ends early."""
    probe_steps: Annotated[int, at_least(0)] = 0
    """Updates from one probe of the network to the next. 0: no probe."""
    probe_data: Annotated[str | None, Place()] = None
    """Data of the probe: labelled data for classify. None: the run's held-out data, for cloze."""
    probe_task: Literal["", "cloze", "classify", "reference"] = ""
    """What the probe measures. cloze: how often a masked word is predicted (text). classify: accuracy of a linear classifier on frozen
    features. reference: explained variance of the targets of probe_reference at masked positions. "": classify if probe_data is set, else
    cloze."""
    probe_reference: Annotated[str | None, Place()] = None
    """Run dir or checkpoint folder of the run whose teacher gives the targets of reference. Unlike explained_variance, which is of a run's
    own targets, this score can be compared between runs."""
    probe_samples: Annotated[int, at_least(1)] = 1_000
    """Most samples that a probe reads from each split. They are read once, at the start, and kept in memory."""
    probe_label_column: str = "label"
    """Column of a table that holds the class, for classify."""
