"""The text tasks of the fine-tuning command: GLUE's eight, and tasks on the user's own data. Torch-free.

Source of the numbers: fairseq examples/roberta/config/finetuning/*.yaml (data2vec.md section 10.1). GLUE's test data have no public
labels: its scores are those of the validation splits, as in the paper (table 4).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from model.config import HeadConfig
from recipes.config import GuardConfig, OptimConfig, Recipe, RunConfig
from recipes.data.glue import GLUE
from recipes.eval_config import EvalConfig
from recipes.finetune_config import FinetuneConfig
from recipes.labelled_config import LabelledTextDataConfig
from recipes.supervised_config import ClassifyConfig, RegressConfig, SupervisedConfig

NARROW, NARROW_LR = 512, 5e-4
"""Networks with fewer channels than this get this learning rate, since the published ones are for 768 and more."""


@dataclass(frozen=True)
class TextTask:
    """A text task: its columns, its metric and its published numbers. A task of GLUE takes columns, classes and splits from
    recipes/data/glue.py."""

    text_columns: tuple[str, ...] = ("text",)
    is_regression: bool = False
    metric: str = "accuracy"
    lr: float = 1e-5
    batch_size: int = 32
    warmup_share: float = 0.06
    glue_task: str = ""
    """Name in GLUE; "": the task is none of GLUE's."""

    @property
    def objective(self) -> SupervisedConfig:
        """The recipe's section `objective`, with GLUE's classes in their published order."""
        head = HeadConfig(reads="cls", hidden="tanh")
        labels = GLUE[self.glue_task].labels if self.glue_task else ()
        return RegressConfig(head=head) if self.is_regression else ClassifyConfig(head=head, labels=labels)

    def data(self, sequence_length: int) -> LabelledTextDataConfig:
        """Return the recipe's section `data`. `sequence_length`: most tokens of a sample."""
        if not self.glue_task:
            return LabelledTextDataConfig(text_columns=self.text_columns, sequence_length=sequence_length)
        published = GLUE[self.glue_task]
        return LabelledTextDataConfig(
            text_columns=published.text_columns,
            glue_task=self.glue_task,  # type: ignore[arg-type]  # a test compares the names
            valid_split=published.valid_split,
            test_splits=published.test_splits,
            sequence_length=sequence_length,
        )


def _glue(name: str, lr: float, batch_size: int, metric: str = "accuracy", *, warmup_share: float = 0.06) -> TextTask:
    is_regression = not GLUE[name].labels
    return TextTask((), is_regression, metric, lr=lr, batch_size=batch_size, warmup_share=warmup_share, glue_task=name)


TEXT_TASKS: Mapping[str, TextTask] = {
    "sst2": _glue("sst2", 1e-5, 32),
    "cola": _glue("cola", 1e-5, 16, "matthews"),
    "mrpc": _glue("mrpc", 1e-5, 16, "acc_and_f1"),
    "stsb": _glue("stsb", 2e-5, 16, "pearson_and_spearman"),
    "qqp": _glue("qqp", 1e-5, 32, "acc_and_f1", warmup_share=0.25),  # qqp.yaml: 28318 of 113272 updates
    "mnli": _glue("mnli", 1e-5, 32),
    "qnli": _glue("qnli", 1e-5, 32),
    "rte": _glue("rte", 2e-5, 16),
    "classify": TextTask(lr=2e-5),
    "pair": TextTask(("sentence1", "sentence2"), lr=2e-5),
    "regress": TextTask(("sentence1", "sentence2"), is_regression=True, metric="pearson_and_spearman", lr=2e-5),
}


def text_recipe(name: str, task: TextTask, network: Recipe) -> Recipe:
    """Return the recipe that fine-tunes the network of the recipe `network` on a task. `name`: of the task."""
    rate = task.lr if network.model.hidden_size >= NARROW else NARROW_LR
    return Recipe(
        name=f"text_{name}",
        modality="text",
        model=replace(network.model, hidden_dropout=0.1, attention_dropout=0.1),
        frontend=network.frontend,
        mask=network.mask,
        data=task.data(min(512, network.frontend.max_positions)),  # type: ignore[attr-defined]
        optim=OptimConfig(
            lr=rate, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1, decay_norms_and_biases=True, clip_norm=0.0, schedule="linear"
        ),
        run=RunConfig(global_batch_size=task.batch_size),
        guard=GuardConfig(),
        objective=task.objective,
        eval=EvalConfig(metric=task.metric),
        finetune=FinetuneConfig(task=name, epochs=10.0, warmup_share=task.warmup_share),
    )
