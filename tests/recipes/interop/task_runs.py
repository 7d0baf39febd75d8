"""Run dirs of supervised objectives with random weights for tests, as fine-tuning leaves them, and their networks' outputs.

Shapes: B batch, N positions, C outputs, T raw samples.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.batch import Batch
from model.config import HeadConfig
from model.dropout import DropoutStream
from model.parallel import parallel_alone
from model.task_network import TaskNetwork
from recipes.config import Recipe
from recipes.data.tokenizer_json import FILE, read_canonical
from recipes.eval_config import EvalConfig
from recipes.finetune_config import FinetuneConfig
from recipes.interop.stored_run import find_stored_run
from recipes.interop.stored_weights import StoredWeights
from recipes.labelled_config import LabelledTextDataConfig
from recipes.modalities.registry import MODALITIES
from recipes.objectives.supervised import network_builder
from recipes.supervised_config import SPECIAL_LETTERS, ClassifyConfig, CtcConfig, RegressConfig, SupervisedConfig
from tests.recipes.interop.hf_copies import word_level
from tests.recipes.interop.stored_models import Split, _tp_dim, small_recipes, write_run

ALPHABET = (*SPECIAL_LETTERS, "e", "t", "'", "a")
LENGTH = 16
"""Tokens of a text, `<s>` included."""
ROBERTA = HeadConfig(reads="cls", hidden="tanh", dropout=0.1)
OBJECTIVES: dict[str, tuple[str, SupervisedConfig]] = {
    "pairs": ("text", ClassifyConfig(head=ROBERTA, labels=("no", "yes", "it's open"))),
    "numbers": ("text", RegressConfig(head=ROBERTA)),
    "letters": ("speech", CtcConfig(head=HeadConfig(reads="positions", hidden="none", dropout=0.2), alphabet=ALPHABET)),
    "utterances": ("speech", ClassifyConfig(head=HeadConfig(reads="mean", hidden="linear", hidden_size=20), labels=("one", "two"))),
    "images": ("vision", ClassifyConfig(head=HeadConfig(reads="mean", norm=True, hidden="none"), labels=tuple("abcdefg"))),
}
"""Name of a test's task -> modality and objective."""
METRICS = {"pairs": "accuracy", "numbers": "pearson", "letters": "wer", "utterances": "accuracy", "images": "accuracy"}


def task_recipe(name: str) -> Recipe:
    """Return a small recipe of this task. Recordings are padded exactly, as in fine-tuning."""
    modality, objective = OBJECTIVES[name]
    recipe: Any = small_recipes()[modality]
    data: Any = MODALITIES[modality].kinds["data"][-1]()  # the labelled one, if the modality has one
    if isinstance(data, LabelledTextDataConfig):
        columns = ("first", "second") if name == "pairs" else ("text",)
        data = replace(data, text_columns=columns, label_column="score" if name == "numbers" else "label", sequence_length=LENGTH)
    if modality == "speech":
        recipe = replace(recipe, frontend=replace(recipe.frontend, exact_padding=True, exact_statistics=True))
    if modality == "vision":
        recipe = replace(recipe, frontend=replace(recipe.frontend, image_size=28, patch_size=7))  # 28 of 32 pixels: the margin is even
    task, evaluation = FinetuneConfig(task=name), EvalConfig(metric=METRICS[name])
    return replace(recipe, name=f"{modality}_{name}", data=data, objective=objective, finetune=task, eval=evaluation)


def build_network(recipe: Recipe) -> TaskNetwork:
    """Return the recipe's network in evaluation mode, on one process."""
    return network_builder(recipe)(parallel=parallel_alone(), stream=DropoutStream()).eval()


def write_task_run(run_dir: Path, recipe: Recipe) -> Path:
    """Write a run of a supervised objective whose weights are random and large enough that each one matters, and return it. It must run in
    a process with a process group."""
    network = build_network(recipe)
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, parameter in network.named_parameters():
        noise = torch.empty(parameter.shape).normal_(0, 0.1, generator=generator)
        state[name] = parameter.detach() + noise
        if name == "trunk.frontend.tokens.weight":
            state[name][parameter.detach().abs().sum(1) == 0] = 0
    splits = {name: Split(tuple(parameter.shape), _tp_dim(parameter)) for name, parameter in network.named_parameters()}
    write_run(run_dir, recipe, splits, kinds={"master": state}, head={})
    if recipe.modality == "text":
        word_level().save(str(run_dir / FILE))
        (run_dir / FILE).write_bytes(read_canonical(run_dir / FILE, lambda line: None))
    return run_dir


def load_network(run_dir: Path) -> tuple[Recipe, TaskNetwork]:
    """Return recipe and network of a run's newest checkpoint. It must run in a process with a process group."""
    run = find_stored_run(run_dir)
    network, stored = build_network(run.recipe), StoredWeights(run.checkpoint, "student")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(stored.tensor(name))
    return run.recipe, network


def outputs_of(network: TaskNetwork, batch: Batch) -> Tensor:
    """Return what the head gives, (B, C) or (B, N, C)."""
    with torch.no_grad():
        return network(batch)
