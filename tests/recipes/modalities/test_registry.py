"""The table of modalities: every recipe finds its objects in it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.frontends.speech import SpeechFrontend
from model.frontends.text import TextFrontend
from model.frontends.vision import VisionFrontend
from recipes.catalog import RECIPES
from recipes.check import check_recipe
from recipes.data.heldout import EVAL_MASK_SEED
from recipes.data.loader import Dataset, build_batch
from recipes.data.order import UpdateOrder
from recipes.data.speech import SpeechDataset
from recipes.data.text import TextDataset
from recipes.data.vision import VisionDataset
from recipes.errors import ConfigError
from recipes.finetune.probe import TASKS
from recipes.modalities.registry import MODALITIES, modality_of
from tests.launching import tiny_recipe

CLASSES = {"text": (TextFrontend, TextDataset), "speech": (SpeechFrontend, SpeechDataset), "vision": (VisionFrontend, VisionDataset)}


def test_every_recipe_names_an_existing_modality() -> None:
    assert {build().modality for recipes in RECIPES.values() for build in recipes.values()} == set(MODALITIES) == set(CLASSES)


def test_a_modality_is_found_by_its_name_and_an_unknown_one_is_an_error(modality: str) -> None:
    assert modality_of(modality, "somewhere") is MODALITIES[modality]
    with pytest.raises(ConfigError) as caught:
        modality_of("smell", "somewhere")
    assert str(caught.value) == "somewhere: modality 'smell' is not known to this release, which has text, speech, vision"


def test_the_sections_of_every_recipe_are_of_its_modalitys_kinds(modality: str) -> None:
    one = MODALITIES[modality]
    assert set(one.kinds) == {"frontend", "mask", "data"} and one.recipes is RECIPES[modality]
    for build in one.recipes.values():
        recipe = build()
        assert all(type(getattr(recipe, name)) in kinds for name, kinds in one.kinds.items()), recipe.name
        assert {type(getattr(recipe, name)).kind for name in ("frontend", "data")} == {modality}


def test_every_modality_has_existing_probe_tasks_and_the_first_of_text_is_cloze() -> None:
    assert MODALITIES["text"].probes[0] == "cloze"
    assert all("classify" in one.probes and set(one.probes) <= set(TASKS) for one in MODALITIES.values())


def test_recipes_for_the_length_of_benchmarks_are_consistent(modality: str) -> None:
    for build in RECIPES[modality].values():
        check_recipe(MODALITIES[modality].resized(build(), MODALITIES[modality].benchmark_length))


def test_random_batches_have_as_many_positions_as_the_front_end_gives_for_their_length(modality: str) -> None:
    """Nothing is padded, so every position counts as a token."""
    recipe: Any = tiny_recipe(modality)
    length, raw = {"text": (20, 20), "speech": (1, 16_000), "vision": (0, 0)}[modality]
    batch = MODALITIES[modality].random_batch(recipe, 3, length, np.random.default_rng(0))
    assert batch.masks.mask_BS.shape == (3, recipe.frontend.tokens_per_sample(raw)) and batch.num_tokens == batch.masks.mask_BS.numel()
    assert 0 < batch.masks.num_masked < batch.num_tokens


@pytest.fixture(scope="module")
def prepared(modality: str, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modality's made-up data, prepared with its tiny settings."""
    recipe = tiny_recipe(modality, data__path=tiny_data)
    return MODALITIES[modality].prepare(recipe, tmp_path_factory.mktemp(modality) / "prepared", num_processes=1)


def one_batch(dataset: Dataset) -> Any:
    return build_batch(dataset, UpdateOrder(dataset, seed=0, global_batch_size=4, group_size=4).positions(0))


def test_a_modality_has_its_front_end_and_both_splits(modality: str, prepared: Path) -> None:
    frontend, dataset = CLASSES[modality]
    recipe = tiny_recipe(modality, data__path=prepared)
    builder: Any = MODALITIES[modality].build_frontend(recipe)
    assert (builder.func, builder.args) == (frontend, (recipe.frontend,))
    train, heldout = MODALITIES[modality].open_data(recipe, prepared)
    assert isinstance(train, dataset) and isinstance(heldout, dataset)
    assert len(train) > 5 * len(heldout) > 0 and train.fingerprint == heldout.fingerprint
    assert MODALITIES[modality].prepare(recipe, prepared, progress=False, log=print) == prepared, "found, not made again"


def test_options_reach_the_preparation(modality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe: Any = tiny_recipe(modality)
    place = {"text": "prepare", "speech": "speech_folder", "vision": "vision_folder"}[modality]
    calls: list[Any] = []
    monkeypatch.setattr(f"recipes.data.{place}.prepare_{modality}", lambda *args, **options: calls.append((args, options)) or tmp_path)
    options = {"num_processes": 3, "progress": False, "log": print}
    assert MODALITIES[modality].prepare(recipe, tmp_path / "prepared", **options) == tmp_path
    sections = (recipe.data,) if modality == "vision" else (recipe.data, recipe.frontend)
    assert calls == [((*sections, tmp_path / "prepared"), options)]


def test_masks_follow_the_runs_seed_in_training_and_a_constant_in_evaluation(modality: str, prepared: Path) -> None:
    masks = []
    for seed in (1, 2, EVAL_MASK_SEED):
        train, heldout = MODALITIES[modality].open_data(tiny_recipe(modality, run__seed=seed), prepared)
        examples = [heldout.example(0, index, (index,)) for index in range(len(heldout))]
        masks.append((one_batch(train).masks.mask_BS, torch.cat([torch.from_numpy(example.mask) for example in examples])))
    assert not torch.equal(masks[0][0], masks[1][0])
    assert torch.equal(masks[0][1], masks[1][1]) and masks[0][1].any()


def test_a_batch_has_as_many_positions_as_the_front_end(modality: str, prepared: Path) -> None:
    recipe = tiny_recipe(modality)
    batch = one_batch(MODALITIES[modality].open_data(recipe, prepared)[0])
    assert batch.masks.mask_BS.shape[0] == 4 and batch.num_tokens == batch.masks.mask_BS.numel(), "nothing is padded here"
    assert torch.equal(batch.masks.masked_index_M, batch.masks.mask_BS.flatten().nonzero()[:, 0]) and batch.masks.num_masked > 4
    lengths = {
        "text": lambda: recipe.data.sequence_length,  # type: ignore[union-attr]
        "speech": lambda: recipe.frontend.num_frames(batch.inputs.shape[1]),  # type: ignore[union-attr]
        "vision": lambda: recipe.frontend.grid**2,  # type: ignore[union-attr]
    }
    assert batch.masks.mask_BS.shape[1] == lengths[modality]()
    assert (batch.inputs is batch.clean_inputs) == (modality != "text"), "one tensor if the front-end applies the mask"
