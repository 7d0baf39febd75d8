"""The speech tasks: the published numbers, the network that they begin with, and the head of transformers."""

from dataclasses import replace
from typing import Any

import pytest

from recipes.check import check_recipe
from recipes.config import Recipe
from recipes.finetune.speech_tasks import PUBLISHED, SPEECH_TASKS, published_batch, speech_recipe
from recipes.settings import apply_overrides
from recipes.speech import speech_base, speech_large, speech_tiny
from recipes.supervised_config import SPECIAL_LETTERS

FAIRSEQ = {
    # data2vec.md section 10.2: samples of audio a GPU, GPUs, accumulation, updates, lr, time p, channel p, layerdrop, freeze
    "base_10m": (3_200_000, 2, 4, 13_000, 5e-5, 0.65, 0.25, 0.1, 10_000),
    "base_1h": (3_200_000, 2, 4, 13_000, 5e-5, 0.65, 0.25, 0.1, 10_000),
    "base_10h": (3_200_000, 2, 4, 20_000, 5e-5, 0.65, 0.5, 0.05, 10_000),
    "base_100h": (3_200_000, 2, 4, 80_000, 3e-5, 0.65, 0.5, 0.1, 0),
    "base_960h": (3_200_000, 8, 1, 320_000, 1e-4, 0.5, 0.1, 0.1, 0),
    "vox_10m": (1_280_000, 4, 5, 13_000, 1e-4, 0.65, 0.25, 0.1, 10_000),
    "vox_1h": (1_280_000, 4, 5, 13_000, 3e-4, 0.75, 0.25, 0.1, 10_000),
    "vox_10h": (1_280_000, 4, 5, 20_000, 1e-4, 0.75, 0.25, 0.1, 10_000),
    "vox_100h": (1_280_000, 4, 5, 80_000, 3e-5, 0.5, 0.5, 0.1, 10_000),
    "vox_960h": (1_280_000, 24, 1, 320_000, 3e-5, 0.5, 0.25, 0.1, 10_000),
}


def published(name: str) -> Any:
    network = speech_base() if name.startswith("base") else speech_large()
    return speech_recipe("ctc", PUBLISHED["ctc"][name], network)


@pytest.mark.parametrize("name", FAIRSEQ)
def test_a_published_configuration_has_fairseqs_numbers(name: str) -> None:
    samples, gpus, accumulation, updates, rate, time, channels, layerdrop, freeze = FAIRSEQ[name]
    recipe = published(name)
    check_recipe(recipe)
    optim, data, objective, model = recipe.optim, recipe.data, recipe.objective, recipe.model
    assert (recipe.run.max_steps, optim.schedule_steps, optim.lr, optim.schedule) == (updates, updates, rate, "tri_stage")
    assert (optim.warmup_steps, optim.decay_steps, optim.final_lr_scale) == (updates // 10, updates // 2, 0.05)
    assert (optim.betas, optim.eps, optim.weight_decay, optim.clip_norm) == ((0.9, 0.98), 1e-8, 0.0, 0.0)
    assert (data.time_mask_prob, data.channel_mask_prob, data.time_mask_length, data.channel_mask_length) == (time, channels, 10, 64)
    assert (model.block.layerdrop, model.activation_dropout, model.hidden_dropout, model.attention_dropout) == (layerdrop, 0.1, 0.0, 0.0)
    assert (objective.frozen, objective.frozen_steps, objective.head.dropout) == ("features", freeze, 0.0)
    assert objective.head.widths(768, 32) == [768, 32] and recipe.finetune.epochs == 0
    assert recipe.run.global_batch_size == published_batch(samples, gpus, accumulation)
    assert recipe.name == f"speech_ctc_{name}" and (recipe.eval.metric, recipe.eval.goal) == ("wer", "min")


def test_every_published_configuration_is_here() -> None:
    assert PUBLISHED.keys() == {"ctc"} and PUBLISHED["ctc"].keys() == FAIRSEQ.keys()


@pytest.mark.parametrize(("batch", "recordings"), [((3_200_000, 2, 4), 128), ((1_280_000, 24, 1), 160), ((3_200_000, 8, 1), 128)])
def test_batches_of_audio_become_recordings_of_the_mean_length(batch: tuple[int, int, int], recordings: int) -> None:
    samples, gpus, accumulation = batch
    assert published_batch(samples, gpus, accumulation) == recordings
    assert recordings * 12.3 == pytest.approx(samples * gpus * accumulation / 16_000, rel=0.03), "seconds of audio"


@pytest.mark.parametrize("task", SPEECH_TASKS)
@pytest.mark.parametrize("build", [speech_tiny, speech_base])
def test_a_task_keeps_the_network_except_for_dropout_and_padding(task: str, build: Any) -> None:
    network: Recipe = build()
    recipe: Any = speech_recipe(task, SPEECH_TASKS[task], network)
    check_recipe(apply_overrides(recipe, ["data.path=x"]))
    plain: dict[str, Any] = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    assert replace(recipe.model, **plain, block=network.model.block) == replace(network.model, **plain)
    assert recipe.frontend.exact_padding and recipe.frontend.exact_statistics
    assert replace(recipe.frontend, exact_padding=False, exact_statistics=False) == network.frontend
    assert set(recipe.run.accept_changes) == {"frontend.exact_padding", "frontend.exact_statistics"}
    again: Any = speech_recipe(task, SPEECH_TASKS[task], recipe)
    assert again.run.accept_changes == (), "a fine-tuned network is exact already"
    assert recipe.optim.lr == (SPEECH_TASKS[task].lr if build is speech_base else 5e-4)


def test_a_narrow_network_masks_the_published_share_of_its_channels_at_once() -> None:
    recipe: Any = speech_recipe("ctc", SPEECH_TASKS["ctc"], speech_tiny())
    assert recipe.data.channel_mask_length == 192 // 12


def test_the_length_of_a_task_on_own_data_follows_from_epochs_in_three_stages() -> None:
    recipe: Any = speech_recipe("ctc", SPEECH_TASKS["ctc"], speech_base())
    assert (recipe.finetune.epochs, recipe.finetune.warmup_share, recipe.finetune.decay_share) == (20, 0.1, 0.5)
    assert recipe.objective.alphabet == () and len(SPECIAL_LETTERS) == 5 and recipe.data.label_column == "text"


def test_the_head_of_a_classification_is_that_of_transformers() -> None:
    recipe: Any = speech_recipe("classify", SPEECH_TASKS["classify"], speech_base())
    head = recipe.objective.head
    assert (head.reads, head.hidden, head.widths(768, 10)) == ("mean", "linear", [768, 256, 10])
    assert (recipe.eval.metric, recipe.eval.goal, recipe.data.label_column) == ("accuracy", "max", "label")
    assert recipe.data.time_mask_prob == 0
