"""What is compared: networks that are pre-trained, tasks on which they are judged, and how long each is trained. The numbers were fixed on
validation data before a test split was read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

DATA2VEC, CONTROL, RANDOM = "data2vec", "control", "random"
"""The arms: the recipe itself, another objective in the same network, and random weights."""
EVALUATIONS = 4
"""Evaluations on validation data in one run, of which the best one gives the checkpoint."""
SEEDS = 5


@dataclass(frozen=True)
class Network:
    """A network that is pre-trained once."""

    modality: str
    arm: str
    recipe: str
    data: str
    """Folder of the data."""
    settings: tuple[str, ...] = ()
    """Further settings, as for --set."""


class Budget(NamedTuple):
    """How a task is trained with a number of labelled examples (0: all)."""

    labels: int
    epochs: float
    batch: int
    chosen_at: int
    """Number of labelled examples at which the learning rate was chosen."""


@dataclass(frozen=True)
class Task:
    """A data set on which networks are fine-tuned and probed."""

    data: str
    modality: str
    name: str
    """Value of --task."""
    budgets: Sequence[Budget]
    rates: tuple[str, ...]
    """Learning rates from which each arm takes the one with the best validation metric."""
    settings: tuple[str, ...] = ()
    label_column: str = "label"
    metric: str = "accuracy"
    is_error: bool = False
    """True: a smaller metric is better."""

    from_random: tuple[str, ...] = ()
    """Settings that replace others where the weights are random."""

    def sets(self, budget: Budget, arm: str) -> list[str]:
        """Return the settings of an arm with this budget."""
        return [
            *self.settings,
            *(self.from_random if arm == RANDOM else ()),
            f"data.label_column={self.label_column}",
            f"finetune.epochs={budget.epochs:g}",
            f"finetune.evals_per_epoch={EVALUATIONS / budget.epochs:g}",
            f"run.global_batch_size={budget.batch}",
            f"data.max_train_samples={budget.labels}",
        ]


NETWORKS = (
    Network("text", DATA2VEC, "text_small", "text-novels", ("data.split=train",)),
    Network("speech", DATA2VEC, "speech_small", "speech-ocean762"),
    Network("vision", DATA2VEC, "vision_small", "image-flowers"),
    Network("text", CONTROL, "text_small_mlm", "text-novels", ("data.split=train",)),
    Network("vision", CONTROL, "vision_small_pixels", "image-flowers"),
)
MEAN = ("objective.head.reads=mean", "objective.head.hidden=none")
"""The head reads the mean of all positions: <s> of a network that never saw a sentence task has no meaning."""


def text_task(data: str, name: str, all_labels: Budget, few: Sequence[Budget], label_column: str = "label") -> Task:
    """Return a task of texts."""
    return Task(data, "text", name, (*few, all_labels), ("1e-3", "2e-3", "4e-3"), MEAN, label_column)


CTC = (
    "objective.frozen=nothing",
    "objective.frozen_steps=560",  # two epochs of 281 updates: with the whole network from the start, only blanks are learned
    "optim.head_lr_scale=20",
    "optim.clip_norm=5",
    "finetune.warmup_share=0.1",
    *("data.time_mask_prob=0", "data.channel_mask_prob=0", "model.activation_dropout=0"),  # six epochs are too few to overfit
    "eval.metric=cer",
)
FEW = (Budget(10, 40, 8, 100), Budget(100, 40, 32, 100), Budget(1000, 20, 64, 0))
MANY_CLASSES = FEW[1:]
"""Ten examples of 77 or 151 classes cannot be learned from."""
TASKS = (
    text_task("cls-mr", "classify", Budget(0, 4, 128, 0), FEW),
    text_task("cls-subj", "classify", Budget(0, 4, 128, 0), FEW),
    text_task("cls-clinc150", "classify", Budget(0, 8, 128, 0), MANY_CLASSES, "intent"),
    text_task("cls-banking77", "classify", Budget(0, 8, 128, 0), MANY_CLASSES, "category"),
    text_task("pair-sick", "pair", Budget(0, 10, 128, 0), FEW, "entailment"),
    Task("image-flowers", "vision", "classify", (*FEW, Budget(0, 10, 64, 0)), ("5e-4", "1e-3", "2e-3"), ("data.num_workers=0",)),
    Task("image-pets3", "vision", "classify", (*FEW[:2], Budget(0, 40, 32, 0)), ("5e-4", "1e-3", "2e-3"), ("data.num_workers=0",)),
    Task("speech-fsdd", "speech", "classify", (*FEW, Budget(0, 10, 32, 0)), ("5e-4", "1e-3", "2e-3"), ("objective.frozen=nothing",)),
    Task(
        "speech-ocean762",
        "speech",
        "ctc",
        (Budget(0, 6, 8, 0),),
        ("2.5e-4", "5e-4", "1e-3"),
        CTC,
        "text",
        "cer",
        is_error=True,
        from_random=("objective.frozen_steps=0",),  # a head on frozen random features learns nothing
    ),
)
CLOZE = {"text-wikitext2-eval": "test.txt.gz", "text-novels": "test"}
"""Texts of the cloze probe, and the part that was not read while the recipes were tuned."""
