"""One file of whole tensors from made-up checkpoints of any topology: values, memory, and files after an error."""

import argparse
import json
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from build_memory import peak_bytes, reset_peak
from recipes.checkpoint.layout import Counters, FileEntry, Manifest, ParameterEntry, Range, range_to_json, write_manifest
from recipes.checkpoint.load import CheckpointReader
from recipes.checkpoint.tensor_file import HASHED_ELEMENTS, hashes_of, write_tensors
from recipes.errors import ConfigError, DamagedCheckpoint
from recipes.interop.consolidate import KIND_OF, TOKEN_TABLE, add_command, consolidate, run_consolidate
from tests.distributed import run_distributed
from tests.recipes.checkpoint.models import FACTS, SPLIT, TABLE, VOCAB_SIZE, whole_tensors, write_model

FLAGS = {"--help", "--from", "--weights", "--out", "--local_rank"}
MEGABYTE = 1024**2


def parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers())
    return parser.parse_args(["consolidate", *map(str, words)])


def test_the_flags_are_frozen_and_the_command_is_run_by_them(tmp_path: Path) -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    add_command(commands)
    actions = commands.choices["consolidate"]._actions
    assert {flag for action in actions for flag in action.option_strings if flag.startswith("--")} == FLAGS
    words = ("--from", tmp_path, "--weights", "teacher", "--out", tmp_path / "t", "--local_rank", 0)
    assert parse(*words).run is run_consolidate


@pytest.mark.parametrize(("tp_size", "dp_size"), [(1, 1), (2, 1), (1, 3), (2, 2), (4, 1)])
@pytest.mark.parametrize("weights", KIND_OF)
def test_every_tensor_is_whole_under_our_name_for_any_topology(weights: str, tp_size: int, dp_size: int, tmp_path: Path) -> None:
    reader = CheckpointReader(write_model(tmp_path / "c", tp_size, dp_size))
    shapes = consolidate(reader, weights, tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    names = [name for name in SPLIT if weights == "student" or not name.startswith("head.")]
    assert list(shapes) == names and found.keys() == set(names)
    for name in names:
        expected = whole_tensors()[f"{KIND_OF[weights]}/{name}"]
        assert torch.equal(expected, reader.whole(KIND_OF[weights], name))
        assert torch.equal(found[name], expected[:VOCAB_SIZE] if name == TABLE else expected)
        assert found[name].dtype == torch.float32 and found[name].shape == shapes[name]


def test_the_metadata_have_recipe_step_weights_and_the_rows_left_out(tmp_path: Path) -> None:
    consolidate(CheckpointReader(write_model(tmp_path / "c")), "teacher", tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata.pop("recipe")) == FACTS["recipe"]
    assert metadata == {"format": "pt", "weights": "teacher", "step": "7", "padding_rows_left_out": f'{{"{TOKEN_TABLE}": 3}}'}


@pytest.mark.parametrize("facts", [{}, {"recipe": {"frontend": {"conv_dim": 8}}}, {"recipe": {"frontend": {"vocab_size": 8}}}])
def test_without_padding_nothing_is_left_out(facts: dict[str, Any], tmp_path: Path) -> None:
    assert consolidate(CheckpointReader(write_model(tmp_path / "c", facts=facts)), "student", tmp_path / "out")[TABLE] == (8, 4)


def test_only_the_table_of_tokens_loses_rows(tmp_path: Path) -> None:
    facts = {"recipe": {"frontend": {"vocab_size": 3}}}
    shapes = consolidate(CheckpointReader(write_model(tmp_path / "c", facts=facts)), "student", tmp_path / "out")
    assert shapes == {name: (3, 4) if name == TABLE else shape for name, (shape, _) in SPLIT.items()}


def test_the_command_takes_a_run_dir_and_prints_what_it_wrote(tmp_path: Path) -> None:
    folder, out, said = write_model(tmp_path / "checkpoints" / "step_00000007"), tmp_path / "t.safetensors", list[str]()
    assert run_consolidate(parse("--from", tmp_path, "--weights", "teacher", "--out", out), said.append) == 0
    assert said[0] == f"teacher of {folder}: 3 tensors, {out.stat().st_size:,} bytes, written to {out}" and len(said) == 2
    loaded: dict[str, Any] = {}
    exec(said[1].removeprefix("load it: "), loaded)
    assert len(loaded["weights"]) == 3


def test_a_file_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    reader, out = CheckpointReader(write_model(tmp_path / "c")), tmp_path / "mine"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="mine: exists already and is never overwritten; name another file"):
        consolidate(reader, "student", out)
    assert out.read_text() == "mine"


def test_damage_leaves_no_file(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "c")
    path = folder / "rank_00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the teacher's last parameter
    path.write_bytes(content)
    (tmp_path / "out").mkdir()
    with pytest.raises(DamagedCheckpoint, match=r"shadow/trunk\.blocks\.0\.out\.weight is not as it was written"):
        consolidate(CheckpointReader(folder), "teacher", tmp_path / "out" / "t.safetensors")
    assert list((tmp_path / "out").iterdir()) == []
    consolidate(CheckpointReader(folder), "student", tmp_path / "out" / "s.safetensors")


def test_an_out_that_cannot_be_written_is_a_one_line_error(tmp_path: Path) -> None:
    reader = CheckpointReader(write_model(tmp_path / "c"))
    (tmp_path / "file").touch()
    for out, complaint in (
        ("nowhere/t", rf"there is no folder {tmp_path}/nowhere; make it, or name a file in one that exists"),
        ("c", rf"is a folder; name a file in it, such as {tmp_path}/c/student\.safetensors"),
        ("file/t", "Not a directory; name a file that you may write, on a disk with room"),
    ):
        with pytest.raises(ConfigError, match=rf"--out .*{out}: {complaint}"):
            consolidate(reader, "student", tmp_path / out)


def test_a_checkpoint_that_its_run_removes_while_its_file_is_open_is_read(tmp_path: Path) -> None:
    reader = CheckpointReader(write_model(tmp_path / "c"))
    reader.names("master")
    shutil.rmtree(tmp_path / "c")
    consolidate(reader, "student", tmp_path / "t")
    assert (tmp_path / "t").stat().st_size > 0


def test_a_checkpoint_that_its_run_removes_meanwhile_is_not_reported_as_an_error_of_out(tmp_path: Path) -> None:
    reader = CheckpointReader(write_model(tmp_path / "c"))
    shutil.rmtree(tmp_path / "c")
    with pytest.raises(ConfigError, match=r"^\S+/c: cannot be read \(No such file or directory\); if its run removed it"):
        consolidate(reader, "student", tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_a_write_error_before_the_first_byte_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(5, "Input/output error")

    folder = write_model(tmp_path / "c")
    monkeypatch.setattr("recipes.checkpoint.load.check_files", refuse)
    with pytest.raises(ConfigError, match=r"^\S+/c: cannot be read \(Input/output error\)"):
        run_consolidate(parse("--from", folder, "--weights", "teacher", "--out", tmp_path / "t"), print)


def test_an_error_of_the_source_names_its_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--from \S+/nowhere: no such folder"):
        run_consolidate(parse("--from", tmp_path / "nowhere", "--weights", "teacher", "--out", tmp_path / "t"), print)


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    """A limit on the size of files acts like a full disk. It runs in a separate process."""
    write_model(tmp_path / "c")
    run_distributed(_consolidate_on_a_full_disk, 1, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def _consolidate_on_a_full_disk(tmp_path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
    with pytest.raises(ConfigError, match=r"--out .*t: File too large; name a file that you may write, on a disk with room"):
        consolidate(CheckpointReader(tmp_path / "c"), "student", tmp_path / "t")


def test_more_than_one_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"consolidate runs on one process, 2 were started; use python launch/convert\.py"):
        run_consolidate(parse("--from", tmp_path, "--weights", "teacher", "--out", tmp_path / "t"), print)


@pytest.mark.slow
def test_host_memory_is_that_of_the_largest_parameter(tmp_path: Path) -> None:
    """With four parameters of 64 MiB and reads of 16 MiB, the process grows by less than two parameters."""
    growth = run_distributed(_growth, 1, tmp_path)
    assert 64 <= growth[0] < 112, growth


def _growth(tmp_path: Path) -> int:
    """Return the MiB by which the largest resident size grows."""
    count, names = 16 * MEGABYTE, [f"w{number}" for number in range(4)]
    value = torch.ones(count)
    place = range_to_json(Range("w", (count,), None, 0, 1, 0, count, hashes_of(value), HASHED_ELEMENTS))
    keys = [f"master/{name}" for name in names]
    path = tmp_path / "rank_00000.safetensors"
    header = write_tensors(path, dict.fromkeys(keys, (count,)), (value for _ in names), dict.fromkeys(keys, place))
    del value
    file = FileEntry(path.name, path.stat().st_size, header, 0, 0)
    write_manifest(tmp_path, Manifest(Counters(), 1, 1, dict.fromkeys(names, ParameterEntry((count,), None, count)), (file,), {}))
    before = reset_peak() // MEGABYTE
    consolidate(CheckpointReader(tmp_path), "student", tmp_path / "out")
    return peak_bytes() // MEGABYTE - before
