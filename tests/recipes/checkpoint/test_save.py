"""What a run leaves in checkpoints/: every value once, in float32, under the names of the format."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from recipes.checkpoint.layout import FORMAT, KINDS, range_from_json, step_folder
from recipes.plan.size import num_parameters, num_trunk_parameters
from tests.launching import PRETRAIN_TEXT, launch, overrides, tiny_recipe

PADDING = (256 - 200) * 16  # embedding rows that fill the vocabulary up to a multiple of 128


@pytest.fixture(scope="module")
def checkpoint(tiny_run: Path) -> Path:
    return step_folder(tiny_run, 2)


def test_a_checkpoint_is_the_ranks_file_and_its_state(checkpoint: Path) -> None:
    assert sorted(path.name for path in checkpoint.iterdir()) == ["rank_00000.safetensors", "state.json"]
    state = json.loads((checkpoint / "state.json").read_text())
    assert (state["format"], state["world_size"]) == (FORMAT, 1)
    assert state["counters"] == {"step": 2, "update": 2, "samples": 16, "tokens": 512}
    assert state["recipe"]["name"] == "text_tiny"
    assert (checkpoint.parent / "latest").read_text() == "step_00000002\n"


def test_every_value_is_written_once_in_float32(checkpoint: Path) -> None:
    counts = dict.fromkeys(KINDS, 0)
    with safe_open(checkpoint / "rank_00000.safetensors", framework="pt") as file:
        header = {key: range_from_json(text) for key, text in file.metadata().items()}
        assert set(file.keys()) == set(header)
        for key, place in header.items():
            tensor = file.get_tensor(key)
            assert tensor.dtype == torch.float32 and tensor.shape == (place.count,) and torch.isfinite(tensor).all()
            assert (place.offset, place.tp_rank, place.tp_size, key.partition("/")[2]) == (0, 0, 1, place.parameter)
            counts[key.partition("/")[0]] += place.count
    student, trunk = num_parameters(tiny_recipe()) + PADDING, num_trunk_parameters(tiny_recipe()) + PADDING
    assert counts == {"master": student, "exp_avg": student, "exp_avg_sq": student, "shadow": trunk}


def test_saving_in_between_keeps_every_checkpoint_and_leaves_nothing_temporary(tmp_path: Path, tiny_prepared: Path) -> None:
    args = ["--data", tiny_prepared, "--run-dir", "run", *overrides(run__max_steps=5, run__save_steps=2)]
    done = launch(PRETRAIN_TEXT, args, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["latest", *(f"step_{step:08d}" for step in (2, 4, 5))]
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "save"] == [2, 4, 5], "the last step is not saved twice"
