"""A run dir with weights alone: the values of the student or the teacher, read as any run, from a run of any topology."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from recipes.checkpoint.inspect import find_checkpoint
from recipes.checkpoint.load import CheckpointReader
from recipes.errors import ConfigError
from recipes.interop.consolidate import KIND_OF
from recipes.interop.weights_run import add_command, run_weights
from tests.launching import PRETRAIN_TEXT, launch, overrides


def run(*words: object) -> list[str]:
    """Run the command and return the lines that it prints."""
    parser, said = argparse.ArgumentParser(), list[str]()
    add_command(parser.add_subparsers())
    args = parser.parse_args(["weights", *map(str, words)])
    assert args.run is run_weights and run_weights(args, said.append) == 0
    return said


@pytest.mark.parametrize("source", ["text", "text-2x2", "speech", "vision"])
@pytest.mark.parametrize("weights", KIND_OF)
def test_it_holds_the_weights_of_the_network_and_nothing_else(weights: str, source: str, runs: Path, tmp_path: Path) -> None:
    said = run("--from", runs / source, "--weights", weights, "--run-dir", tmp_path / "run")
    before, after = (CheckpointReader(find_checkpoint(folder, "")) for folder in (runs / source, tmp_path / "run"))
    assert after.verify() == len(after.names("master")) == len(before.names("master"))
    assert not after.names("exp_avg") and not after.names("shadow")
    own = set(before.names(KIND_OF[weights]))
    for name in after.names("master"):
        assert torch.equal(after.whole("master", name), before.whole(KIND_OF[weights] if name in own else "master", name))
    assert after.folder.name == "step_00000000"
    size = sum(path.stat().st_size for path in after.folder.iterdir())
    assert f"{size:,} bytes" in said[0] and size < before.manifest.num_bytes()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    before_it = json.loads((runs / source / "config.json").read_text())["recipe"]
    path = before_it["data"]["path"]
    assert config["recipe"] == before_it | {"data": before_it["data"] | {"path": path and Path(path).name}}
    for file in [tmp_path / "run" / "config.json", *(tmp_path / "run").rglob("manifest.json")]:
        assert '"/' not in file.read_text(), "a path of this machine"
    assert config["origin"]["weights"] == weights


def test_a_folder_that_is_not_empty_is_left_alone(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    with pytest.raises(ConfigError, match="is not empty; name a new folder"):
        run("--from", runs / "text", "--run-dir", tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]


def test_it_is_probed_and_trained_on_but_not_resumed(tiny_run: Path, tiny_prepared: Path, tmp_path: Path) -> None:
    """With the tokenizer of the run. A run that goes on there would lack the moments."""
    run("--from", tiny_run, "--run-dir", tmp_path / "given")
    new = ["--data", tiny_prepared, "--run-dir", tmp_path / "new", *overrides("text", start__start_from=tmp_path / "given")]
    done = launch(PRETRAIN_TEXT, new, tmp_path)
    assert done.returncode == 0, done.stderr
    resumed = launch(
        PRETRAIN_TEXT, ["--data", tiny_prepared, "--run-dir", tmp_path / "given", *overrides("text", run__max_steps=9)], tmp_path
    )
    assert resumed.returncode == 2 and "start.start_from" in resumed.stderr, resumed.stderr
