"""The probe `reference`: the targets are those of the other run's teacher, the score is the same on any number of ranks, and a run with
other inputs is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.errors import ConfigError
from recipes.finetune.reference_probe import POSITIONS, open_reference
from recipes.interop.trunk import find_run, load_trunk
from recipes.modalities.registry import MODALITIES
from recipes.train.probe import ProbePlace
from tests.distributed import run_distributed
from tests.launching import tiny_recipe
from tests.made_up import WRITE
from tests.recipes.finetune.probed_runs import train

HELD_OUT = ["data.heldout_fraction=0.2"]
MODALITY_NAMES = ("text", pytest.param("speech", marks=pytest.mark.slow), pytest.param("vision", marks=pytest.mark.slow))


def prepared_data(modality: str, folder: Path) -> Path:
    """Prepared data with held-out samples."""
    recipe = tiny_recipe(modality, data__path=WRITE[modality](folder), data__heldout_fraction=0.2)
    return MODALITIES[modality].prepare(recipe, folder / "prepared", num_processes=1)


def settings(reference: Path) -> list[str]:
    return [*HELD_OUT, "eval.probe_steps=2", "eval.probe_task=reference", f"eval.probe_reference={reference}"]


@pytest.mark.parametrize("modality", MODALITY_NAMES)
def test_the_score_is_the_same_on_one_rank_and_on_two(modality: str, tmp_path: Path) -> None:
    data, dropless = prepared_data(modality, tmp_path), ["model.hidden_dropout=0", "model.attention_dropout=0"]
    train(modality, tmp_path / "reference", data, HELD_OUT)
    scores = []
    for size in (1, 2):
        rows = train(modality, tmp_path / str(size), data, [*settings(tmp_path / "reference"), *dropless], world_size=size)
        events = [json.loads(line) for line in (tmp_path / str(size) / "events.jsonl").read_text().splitlines()]
        first = next(event["probe"] for event in events if event["event"] == "probe")
        scores.append([first, *(row["probe"] for row in rows if row.get("probe") is not None)])
    assert len(scores[0]) == 3 and scores[0] == pytest.approx(scores[1], abs=1e-3)
    assert scores[0][0] == pytest.approx(scores[1][0], abs=1e-6), "the same weights, before the first update"
    assert all(score < 1 for score in scores[0]) and len(set(scores[0])) == 3


def opened(modality: str, reference: Path, prepared: Path, run_dir: Path) -> Any:
    """Open the probe on one rank. Return the labels of its first batch, the same targets from the stored trunk, and how many positions
    and samples it has; or the error."""
    from model.parallel import init_parallel
    from model.targets import average_targets
    from recipes.cluster.world import join_world

    recipe, world = tiny_recipe(modality, eval__probe_task="reference", eval__probe_reference=reference), join_world()
    try:
        samples = open_reference(recipe, ProbePlace(world, init_parallel(1, "cpu"), prepared, run_dir))
    except ConfigError as error:
        return str(error)
    one, run = samples.fit.own[0], find_run(reference, "teacher")
    trunk, config = load_trunk(run, torch.device("cpu")), run.recipe.teacher
    with torch.no_grad():
        outputs = trunk(one.batch.clean_inputs, None, one.batch.clean_padding_mask_BS, keep_from=0).layers
        targets_BST = average_targets(outputs[-config.average_top_k_layers :], config)
    assert one.chosen_N is not None
    masked = set(one.batch.masks.masked_index_M.tolist())
    return (
        one.labels_N,
        targets_BST.flatten(0, 1)[one.chosen_N],
        set(one.chosen_N.tolist()) <= masked,
        len(one.chosen_N),
        len(one.batch.inputs),
    )


def test_labels_are_the_reference_s_targets_at_masked_positions_of_the_run(tmp_path: Path) -> None:
    data = prepared_data("text", tmp_path)
    train("text", tmp_path / "reference", data, HELD_OUT)
    ((labels_NT, targets_NT, are_masked, count, num_samples),) = run_distributed(
        opened, 1, "text", tmp_path / "reference", data, tmp_path / "run"
    )
    assert torch.equal(labels_NT, targets_NT.float()) and are_masked and 0 < count <= 2 * POSITIONS * num_samples
    assert labels_NT.std() > 0.1, "the targets are normalised, and not constant"


def test_a_run_with_other_inputs_is_refused(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("one", "other", "pictures")}
    for folder in folders.values():
        folder.mkdir()
    data = {name: prepared_data("vision" if name == "pictures" else "text", folder) for name, folder in folders.items()}
    reference = tmp_path / "reference"
    train("text", reference, data["one"], HELD_OUT)
    tokenizer = data["other"] / "tokenizer.model"
    tokenizer.write_bytes(tokenizer.read_bytes() + b"\0")
    for modality, name, complaint in (
        ("vision", "pictures", "is of modality text, not vision"),
        ("text", "other", "its tokenizer is another one"),
    ):
        (error,) = run_distributed(opened, 1, modality, reference, data[name], tmp_path / "run")
        assert str(error).startswith(f"eval.probe_reference {reference}: {complaint}"), error
