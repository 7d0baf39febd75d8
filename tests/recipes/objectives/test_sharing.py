"""What the teacher shares with the student: copied weights, and features equal to those that the teacher would compute."""

from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.check import check_recipe
from recipes.ds_config import load_ds_config, resolve
from tests.distributed import run_distributed
from tests.launching import ROOT, tiny_recipe

CASES = [
    *(("text", shares) for shares in ("nothing", "frontend")),
    *(("speech", shares) for shares in ("nothing", "features", "frontend")),
    *(("vision", shares) for shares in ("nothing", "features")),
]
COPIED = {
    ("text", "frontend"): {"tokens", "norm"},  # relative positions are a bias of the blocks
    ("speech", "features"): {"extractor", "feature_norm", "projection", "mask_vector"},
    ("speech", "frontend"): {"extractor", "feature_norm", "projection", "mask_vector", "positions"},
    ("vision", "features"): {"patches", "cls_vector", "mask_vector"},
}
"""Parts of the front-end; data2vec.md 4.3, from fairseq's ema_transformer_layers_only, ema_transformer_only and ema_layers_only."""


def train_a_little(modality: str, shares: str, prepared: Path, world_size: int) -> dict[str, Any]:
    """Do three updates. Return which shadows equal the student's weights, and compare targets with and without the student's features."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import backward
    from recipes.modalities.registry import MODALITIES
    from recipes.objectives.registry import build_objective
    from recipes.train.startup import build_loader

    recipe = tiny_recipe(modality, teacher__shares=shares, optim__lr=0.01)
    check_recipe(recipe)
    config = resolve(recipe, load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json"), "test", world_size)
    parallel = init_parallel(1, "cpu")
    objective = build_objective(recipe, config, parallel)
    loader = build_loader(recipe, MODALITIES[modality].open_data(recipe, prepared)[0], config.batch, parallel.dp_rank)
    given: list[bool] = []
    objective.teacher.module.register_forward_pre_hook(lambda module, inputs: given.append(inputs[1] is not None))
    for update in range(3):
        objective.stream.update = update
        for item in loader.batches(update):
            backward(objective.student, objective.forward(item.batch, 64).loss, 64, objective.parallel.dp_size)
            objective.student.step()
        objective.shadow.update(0.9)
    masters = {n: shards.master_shard(p) for n, p in shards.named_parameters(objective.student)}
    equal = {n for n, shadow in objective.shadow.shadows.items() if torch.equal(shadow, masters[n])}
    handed_on, batch = all(given) and len(given) >= 3, loader.batches(3)[0].batch
    loader.close()
    with torch.no_grad():
        features_BND = objective.student(batch).features_BND
        shared, own = objective.teacher(batch, features_BND), objective.teacher(batch, None)
    found = {"equal": equal, "all": set(objective.shadow.shadows), "handed_on": handed_on, "has_features": features_BND is not None}
    return found | {"difference": float((shared - own).abs().max()), "size": float(own.std())}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Prepared made-up data of text, speech and images."""
    from recipes.modalities.registry import MODALITIES
    from tests.made_up import WRITE

    folders = {}
    for modality, write in WRITE.items():
        folder = tmp_path_factory.mktemp(modality)
        recipe = tiny_recipe(modality, data__path=write(folder))
        folders[modality] = MODALITIES[modality].prepare(recipe, folder / "prepared", num_processes=1)
    return folders


@pytest.mark.parametrize(("modality", "shares"), CASES)
def test_the_teacher_copies_shared_weights_and_uses_the_students_features(prepared: dict[str, Path], modality: str, shares: str) -> None:
    expected = {f"trunk.frontend.{part}" for part in COPIED.get((modality, shares), set())}
    for seen in run_distributed(train_a_little, 2, modality, shares, prepared[modality], 2):
        copied = {name for name in seen["all"] if any(name == part or name.startswith(f"{part}.") for part in expected)}
        assert bool(copied) == bool(expected) and seen["equal"] == copied, "these are copied, everything else is averaged"
        assert seen["difference"] <= 1e-5 < seen["size"], "the student's features are its own, or are not read"
        assert seen["handed_on"] == seen["has_features"], "the teacher gets the features that the student has"
