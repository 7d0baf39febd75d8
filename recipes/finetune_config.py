"""The recipe's section `finetune`: settings of the fine-tuning commands that training itself does not read. Torch-free."""

from dataclasses import dataclass
from typing import Annotated

from model.bounds import SHARE, Place, at_least, between


@dataclass(frozen=True)
class FinetuneConfig:
    """The task, how long it is trained in epochs, how often with other seeds, and how transcripts are decoded."""

    task: str = ""
    """Name of the task, as in --task. "": the run is no fine-tuning, and the settings of this section cannot be set."""
    epochs: Annotated[float, at_least(0)] = 0.0
    """Passes over the training data. They determine run.max_steps, optim.schedule_steps and optim.warmup_steps. 0: those numbers are used
    as they are."""
    warmup_share: Annotated[float, SHARE] = 0.06
    """Share of the updates that warms up, if epochs is set (published for GLUE: 0.06)."""
    decay_share: Annotated[float, SHARE] = 0.5
    """Share of the updates of tri_stage's last stage, if epochs is set (published for CTC: 0.5)."""
    evals_per_epoch: Annotated[float, at_least(0)] = 1.0
    """Evaluations on validation data in each epoch, if epochs is set."""
    seeds: Annotated[int, at_least(1)] = 1
    """Number of runs with different seeds: run.seed, run.seed + 1, ... results.json has the value of each, their mean and standard
    error."""
    tokenizer_from: Annotated[str | None, Place()] = None
    """Run whose tokenizer is used with --from random. None: a tokenizer is trained on the task's text."""
    imported_from: Annotated[str | None, Place()] = None
    """Hugging Face folder or hub name that --from named; the commands set it. Its import is the folder `source` of the run dir. None:
    --from named something else."""
    beam_size: Annotated[int, at_least(1)] = 1
    """Prefixes that the search for a transcript keeps (ctc). 1: greedy decoding."""
    language_model: Annotated[str | None, Place()] = None
    """A kenlm file whose scores the search for a transcript adds (ctc). It needs the extra `kenlm`."""
    language_model_weight: Annotated[float, at_least(0)] = 2.0
    """Factor of the language model's log probability."""
    word_score: Annotated[float, between(-100, 100)] = -1.0
    """Added to the score of a transcript for each word."""

    @property
    def is_in_use(self) -> bool:
        """True in a fine-tuning run."""
        return bool(self.task)
