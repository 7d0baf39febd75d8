"""Whole tensors of the student or the teacher of a checkpoint."""

from pathlib import Path

import pytest
import torch

from recipes.checkpoint.load import CheckpointReader
from recipes.errors import ConfigError
from recipes.interop.stored_weights import StoredWeights
from tests.recipes.interop.stored_models import HEAD, STEP

SHARED, OWN = "trunk.frontend.tokens.weight", "trunk.encoder.layers.0.ffn.fc1.weight"


@pytest.mark.parametrize("run", ["text", "text-2x2"])
def test_the_teacher_has_the_students_values_for_what_it_shares(run: str, runs: Path) -> None:
    folder = runs / run / "checkpoints" / f"step_{STEP:08d}"
    student, teacher, reader = StoredWeights(folder, "student"), StoredWeights(folder, "teacher"), CheckpointReader(folder)
    assert torch.equal(teacher.tensor(SHARED), reader.whole("master", SHARED))
    assert torch.equal(teacher.tensor(OWN), reader.whole("shadow", OWN))
    assert torch.equal(student.tensor(OWN), reader.whole("master", OWN)) and not torch.equal(student.tensor(OWN), teacher.tensor(OWN))
    assert student.names == teacher.names == list(reader.manifest.parameters) and HEAD.keys() <= set(student.names)
    assert student.manifest.counters.step == STEP


def test_a_parameter_that_is_not_there_is_one_line(runs: Path) -> None:
    stored = StoredWeights(runs / "text" / "checkpoints" / f"step_{STEP:08d}", "student")
    with pytest.raises(ConfigError, match=r"has no parameter trunk\.x; it is a checkpoint of another architecture"):
        stored.tensor("trunk.x")


def test_a_checkpoint_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is gone; a run that goes on removes its old ones"):
        StoredWeights(tmp_path / "step_00000001", "student")
