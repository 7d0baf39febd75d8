"""What inspect prints about made-up checkpoints, what it verifies, and what it refuses."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.checkpoint.inspect import _objective_lines, add_command, find_checkpoint, reading, run_inspect
from recipes.checkpoint.layout import step_folder
from recipes.errors import ConfigError, DamagedCheckpoint
from tests.recipes.checkpoint.models import whole_tensors, write_model

FLAGS = {"--help", "--parameters", "--verify", "--local_rank"}
NUM_VALUES = 8 * 4 + 4 + 4 * 8 + 4 * 4


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_command(made.add_subparsers())
    return made


def inspect(*words: object) -> list[str]:
    lines: list[str] = []
    assert run_inspect(parser().parse_args(["inspect", *map(str, words)]), lines.append) == 0
    return lines


def test_the_flags_are_frozen() -> None:
    commands = parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    actions = commands["inspect"]._actions  # type: ignore[call-overload,index]
    assert {flag for action in actions for flag in action.option_strings if flag.startswith("--")} == FLAGS
    assert parser().parse_args(["inspect", "run", "--local_rank", "0"]).run is run_inspect


@pytest.fixture
def other_time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose time zone is not UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("other_time_zone")
def test_counters_recipe_origin_topology_files_and_sizes_are_printed(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "step_00000007", tp_size=2, dp_size=2)
    size = sum(path.stat().st_size for path in folder.iterdir())
    file = (folder / "rank_00001.safetensors").stat().st_size
    lines = inspect(folder)
    assert lines[:6] == [
        f"checkpoint {folder}",
        "step 7, update 9 (2 skipped), 72 samples, 1,999 tokens",
        "recipe text_tiny (text): num_layers 1, hidden_size 4, global_batch_size 8",
        "written 2023-11-14 22:13:20 UTC with torch 2.13.0, python 3.11.2, commit 0123456789ab; data feed",
        "written by 4 ranks = data-parallel 2 x tensor-parallel 2",
        f"parameters: 4 with {NUM_VALUES} values; {size:,} bytes, {size / NUM_VALUES:.2f} a value",
    ]
    assert [line.split()[0] for line in lines[6:]] == [f"rank_{rank:05d}.safetensors" for rank in range(4)]
    assert lines[7] == f"  rank_00001.safetensors  {file:>16,} bytes, tensor-parallel rank 1, data-parallel rank 0"


def test_the_two_sizes_of_a_topology_are_not_swapped(tmp_path: Path) -> None:
    assert "written by 6 ranks = data-parallel 3 x tensor-parallel 2" in inspect(write_model(tmp_path / "c", tp_size=2, dp_size=3))


def test_parameters_are_listed_with_whole_shape_and_split_dimension(tmp_path: Path) -> None:
    lines = inspect(write_model(tmp_path / "c", tp_size=2), "--parameters")
    assert [line.split(maxsplit=1) for line in lines[-4:]] == [
        ["trunk.frontend.tokens.weight", "8 x 4           split along 0"],
        ["trunk.norm.weight", "4               whole"],
        ["trunk.blocks.0.out.weight", "4 x 8           split along 1"],
        ["head.weight", "4 x 4           whole"],
    ]


@pytest.mark.parametrize(("tp_size", "ranges"), [(1, 15), (2, 15 + 8)])
def test_verify_reads_every_range(tp_size: int, ranges: int, tmp_path: Path) -> None:
    """There are 15 tensors. The 8 tensors of the 2 split parameters have a range on each tensor-parallel rank."""
    assert len(whole_tensors()) == 15
    assert inspect(write_model(tmp_path / "c", tp_size=tp_size), "--verify")[-1] == f"{ranges} ranges verified"


def test_damage_is_found_by_verify_and_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "c", dp_size=2)
    path = folder / "rank_00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    inspect(folder)
    with pytest.raises(DamagedCheckpoint, match=r"rank_00001\.safetensors: shadow/trunk\.blocks\.0\.out\.weight is not as it was written"):
        inspect(folder, "--verify")
    path.write_bytes(content[:-1])
    with pytest.raises(DamagedCheckpoint, match=r"rank_00001\.safetensors has \d+ of \d+ bytes"):
        inspect(folder)


def test_the_path_of_a_run_dir_means_its_newest_complete_checkpoint(tmp_path: Path) -> None:
    for step in (5, 9, 11):
        write_model(step_folder(tmp_path, step))
    (step_folder(tmp_path, 11) / "manifest.json").unlink()
    assert find_checkpoint(tmp_path, "") == step_folder(tmp_path, 9)
    assert inspect(tmp_path)[0] == f"checkpoint {step_folder(tmp_path, 9)}"


def test_missing_metadata_are_printed_as_unknown(tmp_path: Path) -> None:
    for name, facts in (("c", {}), ("imported", {"data_fingerprint": None})):
        lines = inspect(write_model(tmp_path / name, facts=facts))
        assert lines[2:4] == ["recipe unknown (unknown modality): ", "written at an unknown time with unknown versions; data unknown"]


def test_paths_without_a_checkpoint_are_refused(tmp_path: Path) -> None:
    (tmp_path / "unsaved" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"^--from .*nowhere: no such folder; name a run dir"):
        find_checkpoint(tmp_path / "nowhere", "--from ")
    with pytest.raises(ConfigError, match=r"unsaved: the run has no complete checkpoint yet"):
        inspect(tmp_path / "unsaved")
    with pytest.raises(ConfigError, match=r"neither a run dir nor a checkpoint folder; name a run dir such as runs/text_tiny"):
        inspect(tmp_path)
    for folder in (tmp_path / "unsaved" / "checkpoints" / "step_00000001", tmp_path / "copied"):
        folder.mkdir()
        (folder / "rank_00000.safetensors").touch()
        with pytest.raises(ConfigError, match=r"no manifest\.json, so not a complete checkpoint"):
            inspect(folder)


def test_an_error_of_the_disk_is_one_line_with_the_folder(tmp_path: Path) -> None:
    complaint = r"cannot be read \(No such file or directory\); if its run removed it, name a newer one"
    with pytest.raises(ConfigError, match=complaint), reading(tmp_path):
        (tmp_path / "gone").read_bytes()


@pytest.mark.parametrize(("reads", "words"), [("inspect.check_files", []), ("load.check_files", ["--verify"])])
def test_an_error_of_the_disk_is_one_line_of_the_command(
    reads: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "c")

    def refuse(*args: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(f"recipes.checkpoint.{reads}", refuse)
    with pytest.raises(ConfigError, match=r"c: cannot be read \(Input/output error\); if its run removed it"):
        inspect(folder, *words)


def test_the_objective_and_its_settings_are_one_line_and_long_lists_are_cut() -> None:
    objective = {"kind": "classify", "head": {"reads": "cls", "norm": False}, "labels": [str(n) for n in range(22)], "class_weights": []}
    numbers = ",".join(map(str, range(20)))
    assert _objective_lines(objective) == [f"objective classify: head.reads cls; head.norm false; labels {numbers} and 2 more"]
    assert _objective_lines({"kind": "data2vec"}) == ["objective data2vec"] and _objective_lines({}) == []
