"""The text tasks: the published numbers of GLUE, and recipes that pass all checks."""

from dataclasses import replace

import pytest

from recipes.catalog import RECIPES
from recipes.check import check_recipe
from recipes.finetune.text_tasks import NARROW_LR, TEXT_TASKS, text_recipe
from recipes.scores.table import CLASS_METRICS, NUMBER_METRICS
from recipes.supervised_config import ClassifyConfig, RegressConfig
from tests.launching import tiny_recipe

PUBLISHED = {
    "mnli": (1e-5, 32, 7432, 123873, 3, "accuracy"),
    "qnli": (1e-5, 32, 1986, 33112, 2, "accuracy"),
    "qqp": (1e-5, 32, 28318, 113272, 2, "acc_and_f1"),
    "rte": (2e-5, 16, 122, 2036, 2, "accuracy"),
    "sst2": (1e-5, 32, 1256, 20935, 2, "accuracy"),
    "mrpc": (1e-5, 16, 137, 2296, 2, "acc_and_f1"),
    "cola": (1e-5, 16, 320, 5336, 2, "matthews"),
    "stsb": (2e-5, 16, 214, 3598, 1, "pearson_and_spearman"),
}
"""Rate, batch, warm-up, updates, outputs and metric; fairseq examples/roberta/config/finetuning/*.yaml, data2vec.md section 10.1."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_task_of_glue_has_the_published_numbers(name: str) -> None:
    lr, batch, warmup, updates, outputs, metric = PUBLISHED[name]
    recipe = text_recipe(name, TEXT_TASKS[name], RECIPES["text"]["text_base"]())
    assert (recipe.optim.lr, recipe.run.global_batch_size, recipe.eval.metric) == (lr, batch, metric)
    assert recipe.finetune.warmup_share == pytest.approx(warmup / updates, abs=2e-3) and recipe.finetune.epochs == 10
    assert recipe.objective.num_outputs == outputs  # type: ignore[attr-defined]
    optim = recipe.optim
    assert (optim.betas, optim.eps, optim.weight_decay, optim.clip_norm, optim.schedule) == ((0.9, 0.98), 1e-6, 0.1, 0.0, "linear")
    assert (recipe.model.hidden_dropout, recipe.model.attention_dropout) == (0.1, 0.1) and recipe.data.sequence_length == 512  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", TEXT_TASKS)
@pytest.mark.parametrize("network", RECIPES["text"])
def test_every_task_passes_the_checks_on_every_network(name: str, network: str) -> None:
    recipe = text_recipe(name, TEXT_TASKS[name], RECIPES["text"][network]())
    check_recipe(recipe)
    assert recipe.data.sequence_length <= recipe.frontend.max_positions  # type: ignore[attr-defined]
    metrics = NUMBER_METRICS if isinstance(recipe.objective, RegressConfig) else CLASS_METRICS
    assert recipe.eval.metric in metrics


def test_the_published_rates_are_for_published_widths() -> None:
    narrow = tiny_recipe("text")
    wide = replace(narrow, model=replace(narrow.model, hidden_size=768))
    assert text_recipe("rte", TEXT_TASKS["rte"], narrow).optim.lr == NARROW_LR
    assert text_recipe("rte", TEXT_TASKS["rte"], wide).optim.lr == 2e-5


def test_own_tasks_take_their_classes_from_the_data() -> None:
    assert TEXT_TASKS["pair"].objective == ClassifyConfig(head=TEXT_TASKS["pair"].objective.head)
    assert TEXT_TASKS["classify"].data(64).text_columns == ("text",) and TEXT_TASKS["classify"].data(64).glue_task == ""
