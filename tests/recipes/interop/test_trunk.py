"""What --from may name; that a loaded trunk has the weights of the checkpoint and a built one the random weights of the recipe."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from model.dropout import DropoutStream
from model.init import Init
from model.parallel import init_parallel
from model.student import Student
from recipes.checkpoint.load import CheckpointReader
from recipes.errors import ConfigError
from recipes.interop.trunk import build_trunk, find_run, load_trunk
from recipes.modalities.registry import MODALITIES
from recipes.text import text_tiny
from tests.distributed import run_distributed
from tests.launching import tiny_recipe

CPU = torch.device("cpu")
STEP = Path("checkpoints", "step_00000002")


def test_a_run_dir_and_its_checkpoint_folder_name_the_same_run(tiny_run: Path, tiny_text: Path) -> None:
    probed = find_run(tiny_run)
    assert probed == find_run(tiny_run / STEP)
    assert (probed.run_dir, probed.checkpoint, probed.prepared) == (tiny_run, tiny_run / STEP, tiny_run / "prepared")
    assert probed.recipe == tiny_recipe(data__path=tiny_text), "the run's own numbers, not the recipe's defaults"
    assert probed.recipe.model != text_tiny().model


def test_prepared_data_are_found_if_the_run_was_given_a_prepared_folder(tiny_run: Path, tiny_prepared: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("prepared")))
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["data"]["path"] = str(tiny_prepared)
    (run / "config.json").write_text(json.dumps(config))
    assert find_run(run).prepared == tiny_prepared


def test_an_older_checkpoint_can_be_named(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    older = run / "checkpoints" / "step_00000001"
    shutil.copytree(run / STEP, older)
    assert find_run(older).checkpoint == older and find_run(run).checkpoint == run / STEP


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("nowhere", r"--from .*nowhere: no such folder; name a run dir"),
        ("checkpoints", "neither a run dir nor a checkpoint folder in one"),
        ("prepared/tokens.bin", "neither a run dir nor a checkpoint folder in one"),
    ],
)
def test_a_path_that_is_no_run_is_refused(tiny_run: Path, path: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        find_run(tiny_run / path)


def test_a_run_without_a_checkpoint_of_another_modality_or_of_a_newer_release_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["modality"] = "smell"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"^--from .*run: modality 'smell' is not known to this release, which has text, speech, vision$"):
        find_run(run)
    config["recipe"] |= {"modality": "text", "wheels": {"num": 4}}
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ConfigError, match=r"config\.json \(written by release .*\): has a section wheels, which this release does not know"
    ):
        find_run(run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ConfigError, match="no complete checkpoint yet"):
        find_run(run)


def test_if_the_prepared_folder_is_gone_the_raw_data_are_not_used_in_its_place(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("prepared")))
    assert find_run(run).prepared == run / "prepared", "not the text that the run was given"


def test_a_checkpoint_that_its_run_has_removed_is_one_line(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    probed = find_run(run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ConfigError, match=r"step_00000002: is gone; .* give the same command again"):
        load_trunk(probed, CPU)


def of_the_teacher(run_dir: Path) -> dict:
    """Return the parameters of the trunk with the teacher's weights."""
    return {name: p.detach() for name, p in load_trunk(find_run(run_dir, "teacher"), CPU).named_parameters()}


def test_the_teachers_weights_are_those_of_kind_shadow_in_the_checkpoint(distinct_run: Path) -> None:
    (teacher,) = run_distributed(of_the_teacher, 1, distinct_run)
    reader = CheckpointReader(distinct_run / STEP)
    assert all(torch.equal(tensor, reader.whole("shadow", f"trunk.{name}")) for name, tensor in teacher.items())
    assert not torch.equal(*(next(iter(teacher.values())), reader.whole("master", f"trunk.{next(iter(teacher))}")))


def loaded_and_built(run_dir: Path) -> tuple:
    """Return the parameters of the trunks of both checkpoints, of the built trunk, and of the student at the start of the run; and True if
    any module is in training mode."""
    first, last = (find_run(run_dir / "checkpoints" / f"step_0000000{step}") for step in (1, 2))
    trunks = [load_trunk(first, CPU), load_trunk(last, CPU), build_trunk(last.recipe, CPU)]
    build_frontend = MODALITIES["text"].build_frontend(last.recipe)
    student = Student(last.recipe.model, build_frontend, Init(last.recipe.run.seed), init_parallel(1, "cpu"), DropoutStream())
    is_training = any(module.training for trunk in trunks for module in trunk.modules())
    return *({name: p.detach() for name, p in trunk.named_parameters()} for trunk in (*trunks, student.trunk)), is_training


def test_a_trunk_is_loaded_completely_from_the_named_checkpoint_and_built_as_at_the_start_of_the_run(distinct_run: Path) -> None:
    """The first update has learning rate 0, so its checkpoint contains the initial weights. The second update changes all weights a lot."""
    ((first, last, built, student, is_training),) = run_distributed(loaded_and_built, 1, distinct_run)
    for trunk, step in ((first, 1), (last, 2)):
        reader = CheckpointReader(distinct_run / "checkpoints" / f"step_0000000{step}")
        assert {f"trunk.{name}" for name in trunk} == {name for name in reader.names("master") if name.startswith("trunk.")}
        assert all(torch.equal(tensor, reader.whole("master", f"trunk.{name}")) for name, tensor in trunk.items())
    assert all(torch.equal(built[name], first[name]) and torch.equal(built[name], student[name]) for name in built)
    unmoved = [name for name in built if float((built[name] - last[name]).abs().max()) < 0.1]
    assert not unmoved, "the second update has changed all weights"
    assert not is_training, "eval mode: no dropout in the features"
