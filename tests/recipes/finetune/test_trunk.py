"""What a --from may name, and that the loaded trunk is the checkpoint's, the built one the recipe's random initialisation."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from recipes.checkpoint.load import CheckpointReader
from recipes.errors import ConfigError
from recipes.finetune.trunk import build_trunk, find_source, load_trunk
from recipes.text import text_tiny
from tests.distributed import run_distributed
from tests.launching import tiny_recipe

STEP = Path("checkpoints", "step_00000002")


def test_a_run_dir_and_its_checkpoint_folder_name_the_same_source(tiny_run: Path, tiny_text: Path) -> None:
    source = find_source(tiny_run)
    assert source == find_source(tiny_run / STEP)
    assert (source.run_dir, source.checkpoint, source.prepared) == (tiny_run, tiny_run / STEP, tiny_run / "prepared")
    assert source.recipe == tiny_recipe(data__path=tiny_text), "the run's own numbers, not the recipe's defaults"
    assert source.recipe.model != text_tiny().model


def test_a_run_on_prepared_data_finds_them_where_they_are(tiny_run: Path, tiny_prepared: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("prepared")))
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["data"]["path"] = str(tiny_prepared)
    (run / "config.json").write_text(json.dumps(config))
    assert find_source(run).prepared == tiny_prepared


def test_an_older_checkpoint_can_be_named(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    older = run / "checkpoints" / "step_00000001"
    shutil.copytree(run / STEP, older)
    assert find_source(older).checkpoint == older and find_source(run).checkpoint == run / STEP


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("nowhere", r"--from .*nowhere: no such folder; name a run dir"),
        ("checkpoints", "neither a run dir nor a checkpoint folder in one"),
        ("prepared/tokens.bin", "neither a run dir nor a checkpoint folder in one"),
    ],
)
def test_what_is_no_run_is_refused(tiny_run: Path, path: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        find_source(tiny_run / path)


def test_a_run_without_a_checkpoint_and_one_of_another_modality_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["modality"] = "smell"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="of modality 'smell', which this version does not know"):
        find_source(run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ConfigError, match="no complete checkpoint yet"):
        find_source(run)


def loaded_and_built(run_dir: Path) -> tuple:
    source = find_source(run_dir)
    loaded, built = load_trunk(source, torch.device("cpu")), build_trunk(source.recipe, torch.device("cpu"))
    again = build_trunk(source.recipe, torch.device("cpu"))
    parameters = [{name: p.detach() for name, p in trunk.named_parameters()} for trunk in (loaded, built, again)]
    return *parameters, loaded.training or built.training


def test_a_trunk_is_loaded_whole_and_built_at_the_recipes_initialisation(tiny_run: Path) -> None:
    ((loaded, built, again, training),) = run_distributed(loaded_and_built, 1, tiny_run)
    reader = CheckpointReader(tiny_run / STEP)
    assert {f"trunk.{name}" for name in loaded} == {name for name in reader.names("master") if name.startswith("trunk.")}
    assert all(torch.equal(tensor, reader.whole("master", f"trunk.{name}")) for name, tensor in loaded.items())
    assert all(torch.equal(built[name], again[name]) for name in built), "the same random network every time"
    moved = [name for name in built if not torch.equal(built[name], loaded[name])]
    assert moved and max(float((built[n] - loaded[n]).abs().max()) for n in moved) < 0.01, "two steps with a warm-up away from it"
    assert not training
