"""The command export: what it writes, prints and refuses, and that nothing half is left behind."""

import argparse
import json
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from recipes.errors import ConfigError, DamagedCheckpoint
from recipes.interop.export import add_command, chosen_run, export, run_export
from recipes.interop.stored_run import find_stored_run
from tests.distributed import run_distributed
from tests.recipes.interop.stored_models import HEAD, STEP, Split, small_recipes, write_run


def parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers())
    return parser.parse_args(["export", *map(str, words)])


def test_the_flags_are_frozen_and_the_student_is_the_default() -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    add_command(commands)
    flags = {flag for action in commands.choices["export"]._actions for flag in action.option_strings if flag.startswith("--")}
    assert flags == {"--help", "--from", "--out", "--weights", "--force", "--local_rank"}
    args = parse("--from", "run", "--out", "o")
    assert (args.weights, args.force, args.run) == ("student", False, run_export)


def test_the_command_prints_what_it_wrote_and_how_to_load_it(runs: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "new" / "out", list[str]()
    assert run_export(parse("--from", runs / "vision" / "checkpoints" / f"step_{STEP:08d}", "--out", out), said.append) == 0
    size = (out / "model.safetensors").stat().st_size
    assert said[0].startswith(
        f"student of {runs / 'vision' / 'checkpoints' / f'step_{STEP:08d}'}: 39 tensors, {size:,} bytes, written to {out}"
    )
    assert said[1] == f'load it: from transformers import AutoModel; model = AutoModel.from_pretrained("{out}")'


def test_more_than_one_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"export runs on one process, 2 were started; use python launch/convert\.py"):
        run_export(parse("--from", tmp_path, "--out", tmp_path / "o"), print)


def test_a_folder_that_exists_is_not_overwritten_without_force(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ConfigError, match=r"--out \S+out: exists already; name another folder, or replace an earlier export with --force"):
        export(find_stored_run(runs / "text"), "student", out)
    assert list(out.iterdir()) == []


def test_force_replaces_an_earlier_export_as_a_whole(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(find_stored_run(runs / "text"), "student", out)
    export(find_stored_run(runs / "vision"), "student", out, replace=True)
    assert json.loads((out / "config.json").read_text())["model_type"] == "data2vec-vision"
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (out / "preprocessor_config.json").exists()


def test_force_refuses_an_export_in_which_there_are_other_files_too(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(find_stored_run(runs / "vision"), "student", out)
    (out / "optimizer.pt").touch()
    with pytest.raises(ConfigError, match=r"--out \S+out: 1 files there are not of the export, such as optimizer\.pt, so --force does not"):
        export(find_stored_run(runs / "vision"), "student", out, replace=True)
    assert (out / "optimizer.pt").exists()


def test_force_refuses_a_model_that_another_program_has_saved(runs: Path, tmp_path: Path) -> None:
    """A fine-tuned model, or the source of an import, has the same file names and model_type as an export."""
    from transformers import AutoModel

    out, model = tmp_path / "out", tmp_path / "model"
    export(find_stored_run(runs / "vision"), "student", out)
    AutoModel.from_pretrained(out).save_pretrained(model)
    with pytest.raises(ConfigError, match=r"--out \S+model: is no export \(model\.safetensors has no mark of one\)"):
        export(find_stored_run(runs / "vision"), "student", model, replace=True)
    (model / "model.safetensors").unlink()
    save_file({"a": torch.ones(1)}, model / "model.safetensors")
    with pytest.raises(ConfigError, match="is no export"):
        export(find_stored_run(runs / "vision"), "student", model, replace=True)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_force_refuses_a_folder_that_is_no_export(name: str, runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    (out / name).touch()
    with pytest.raises(ConfigError, match=r"--out \S+out: is no export \(model\.safetensors has no mark of one\), so --force does not"):
        export(find_stored_run(runs / "text"), "student", out, replace=True)
    assert (out / "mine").exists()


def test_force_does_not_replace_what_an_imported_run_keeps_of_its_source(runs: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "hf-text", tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"--out \S+/huggingface: is no export"):
        export(find_stored_run(run), "student", run / "huggingface", replace=True)
    assert (run / "huggingface" / "unread.safetensors").exists()


def test_the_current_folder_is_refused(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", "/"):
        with pytest.raises(ConfigError, match=rf"^--out {name}: exists already"):
            export(find_stored_run(runs / "text"), "student", Path(name))


def test_force_refuses_a_file_and_a_link(runs: Path, tmp_path: Path) -> None:
    export(find_stored_run(runs / "text"), "student", tmp_path / "real")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link", "broken"):
        with pytest.raises(ConfigError, match=rf"--out \S+{name}: is no export"):
            export(find_stored_run(runs / "text"), "student", tmp_path / name, replace=True)


def damage(run: Path, action: Callable[[Path], object]) -> None:
    """Apply `action` to the file of rank 0 of the run's checkpoint."""
    action(run / "checkpoints" / f"step_{STEP:08d}" / "rank_00000.safetensors")


def flip_a_bit(path: Path) -> None:
    """Change one value of the last tensor of the file, which is one of the teacher."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("action", "complaint"),
    [
        (flip_a_bit, r"rank_00000\.safetensors: shadow/trunk\.\S+ is not as it was written"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "none of its 1 checkpoints is complete"),
        (lambda path: path.unlink(), "none of its 1 checkpoints is complete"),
    ],
    ids=["flipped bit", "truncated", "missing"],
)
def test_a_damaged_checkpoint_leaves_nothing_and_keeps_the_old_export(
    action: Callable[[Path], object], complaint: str, runs: Path, tmp_path: Path
) -> None:
    run, out = Path(shutil.copytree(runs / "text", tmp_path / "run")), tmp_path / "old"
    export(find_stored_run(run), "student", out)
    (out / "README.md").write_text("mine")
    damage(run, action)
    for target, replace_it in ((tmp_path / "new", False), (out, True)):
        with pytest.raises(ConfigError, match=complaint):
            export(find_stored_run(run), "teacher", target, replace=replace_it)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "run"] and (out / "README.md").read_text() == "mine"


def test_a_truncated_checkpoint_that_is_named_is_refused(runs: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "text", tmp_path / "run"))
    damage(run, lambda path: path.write_bytes(path.read_bytes()[:-100]))
    with pytest.raises(DamagedCheckpoint, match=r"rank_00000\.safetensors"):
        export(find_stored_run(run / "checkpoints" / f"step_{STEP:08d}"), "student", tmp_path / "out")


def test_a_run_without_a_checkpoint_is_refused(runs: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "text", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints")))
    with pytest.raises(ConfigError, match=r"^--from \S+run: the run has no complete checkpoint yet"):
        run_export(parse("--from", run, "--out", tmp_path / "out"), print)


def test_a_model_that_transformers_cannot_express_is_refused_before_anything_is_written(runs: Path, tmp_path: Path) -> None:
    run = find_stored_run(runs / "text")
    recipe: Any = replace(run.recipe, frontend=replace(run.recipe.frontend, positions="relative"))  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"^frontend\.positions relative: transformers has absolute positions only; train with --set"):
        export(replace(run, recipe=recipe), "student", tmp_path / "new" / "out")
    with pytest.raises(ConfigError, match=r"^modality toys:Smell: transformers has no data2vec class for it"):
        export(replace(run, recipe=replace(run.recipe, modality="toys:Smell")), "student", tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_teacher_of_an_objective_without_one_is_refused(runs: Path, tmp_path: Path) -> None:
    shape = Split((4,), None)
    recipe = small_recipes()["vision"]
    splits = {"trunk.a": shape} | {name: Split(head, None) for name, head in HEAD.items()}
    run = write_run(tmp_path / "run", recipe, splits, kinds={"master": {"trunk.a": torch.ones(4)}})
    with pytest.raises(ConfigError, match="has no teacher; its objective has none, take --weights student"):
        export(find_stored_run(run), "teacher", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"has no parameter trunk\.\S+; it is a checkpoint of another architecture"):
        export(find_stored_run(run), "student", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_full_disk_leaves_nothing_and_keeps_the_old_export(runs: Path, tmp_path: Path) -> None:
    """A limit on the size of files acts like a full disk. It runs in a separate process."""
    out = tmp_path / "old"
    export(find_stored_run(runs / "text"), "student", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    run_distributed(export_on_a_full_disk, 1, runs, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def export_on_a_full_disk(runs: Path, tmp_path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    for name, replace_it in (("old", True), ("new/out", False)):
        with pytest.raises(ConfigError, match=rf"{name}: cannot be written \(File too large.*bytes free on that disk; free space"):
            export(find_stored_run(runs / "text"), "student", tmp_path / name, replace=replace_it)


def test_an_export_that_is_killed_leaves_the_old_one_and_the_next_one_cleans_up(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(find_stored_run(runs / "text"), "student", out)
    (out / "README.md").write_text("mine")
    with pytest.raises(AssertionError, match=r"SIGKILL|-9|died"):
        run_distributed(killed_while_it_writes, 1, runs, out)
    assert (out / "README.md").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2
    export(find_stored_run(runs / "text"), "student", out, replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (out / "README.md").read_text() != "mine"


def killed_while_it_writes(runs: Path, out: Path) -> None:
    from recipes.interop.hf_tensors import HfTensors

    tensors = HfTensors.tensors

    def killed(self: HfTensors) -> Any:
        for number, tensor in enumerate(tensors(self)):
            if number == 5:
                signal.raise_signal(signal.SIGKILL)
            yield tensor

    HfTensors.tensors = killed  # type: ignore[method-assign]
    export(find_stored_run(runs / "text"), "student", out, replace=True)


def test_an_export_that_was_killed_between_two_renames_is_put_back(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(find_stored_run(runs / "text"), "student", out)
    out.rename(tmp_path / ".out.old")
    with pytest.raises(ConfigError, match="exists already"):
        export(find_stored_run(runs / "text"), "student", out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_of_a_run_dir_the_best_checkpoint_is_taken_if_there_is_one_and_a_line_says_so(runs: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "vision", tmp_path / "run"))
    folder = run / "checkpoints"
    shutil.copytree(folder / f"step_{STEP:08d}", folder / "step_00000009")
    assert chosen_run(run)[0].checkpoint == folder / "step_00000009" and chosen_run(run)[1] == []
    (folder / "best").write_text(f"step_{STEP:08d}")
    chosen, lines = chosen_run(run)
    assert chosen.checkpoint == folder / f"step_{STEP:08d}"
    assert lines == [f"taken: {chosen.checkpoint}, the best checkpoint; the newest is {folder / 'step_00000009'}, to be named in --from"]
    assert chosen_run(folder / "step_00000009")[0].checkpoint == folder / "step_00000009"
    (folder / "best").write_text("step_00000009")
    assert chosen_run(run)[1] == [f"taken: {folder / 'step_00000009'}, the best checkpoint; which is the newest too"]
