"""Exports of random models of all three modalities: transformers loads them completely and computes the same hidden states; nothing half
is left behind. transformers is imported in tests only."""

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
from safetensors.torch import load_file
from torch import Tensor

from recipes.config import Recipe
from recipes.errors import ConfigError, DamagedCheckpoint
from recipes.finetune.trunk import find_probed_run, load_trunk
from recipes.interop.export import add_command, export, run_export
from recipes.interop.stored_run import find_stored_run
from tests.distributed import run_distributed
from tests.recipes.interop.stored_models import (
    GOLDEN,
    HEAD,
    STEP,
    Split,
    hidden_states,
    small_recipes,
    write_imported_run,
    write_random_run,
    write_run,
)

CPU = torch.device("cpu")
PAD = 1


def text_batch(recipe: Any) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return (transformers' inputs, padding mask over positions, the same for this project)."""
    ids = torch.randint(4, recipe.frontend.vocab_size, (3, 20), generator=torch.Generator().manual_seed(0))
    padding = torch.arange(20) >= torch.tensor([20, 13, 5])[:, None]
    ids = ids.masked_fill(padding, PAD)
    return {"input_ids": ids, "attention_mask": (~padding).long()}, ids, padding


def speech_batch(recipe: Any) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    lengths = torch.tensor([8000, 6111, 3000])
    padded = torch.arange(8000) >= lengths[:, None]
    waves = torch.randn(3, 8000, generator=torch.Generator().manual_seed(0)).masked_fill(padded, 0.0)
    frames = torch.tensor([recipe.frontend.num_frames(int(length)) for length in lengths])
    padding = torch.arange(int(frames.max())) >= frames[:, None]
    return {"input_values": waves, "attention_mask": (~padded).long()}, waves, padding


def vision_batch(recipe: Any) -> tuple[dict[str, Tensor], Tensor, None]:
    size = recipe.frontend.image_size
    pixels = torch.randn(2, recipe.frontend.num_channels, size, size, generator=torch.Generator().manual_seed(0))
    return {"pixel_values": pixels}, pixels, None


BATCHES: dict[str, Callable[[Any], tuple[dict[str, Tensor], Tensor, Tensor | None]]] = {
    "text": text_batch,
    "speech": speech_batch,
    "vision": vision_batch,
}


def loaded(folder: Path) -> Any:
    """Return transformers' model of an export, after checking that it was loaded completely."""
    from transformers import AutoModel

    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype == torch.float32
    return model.eval()


def largest_difference(folder: Path, run_dir: Path, weights: str) -> float:
    """Return the largest absolute difference of any hidden state, at positions that are not padding."""
    probed = find_probed_run(run_dir, weights)
    theirs, inputs, padding = BATCHES[probed.recipe.modality](probed.recipe)
    ours = hidden_states(load_trunk(probed, CPU), inputs, padding)
    with torch.no_grad():
        found = loaded(folder)(**theirs, output_hidden_states=True)
    assert len(found.hidden_states) == len(ours) == probed.recipe.model.num_layers + 1
    keep = slice(None) if padding is None else ~padding
    assert torch.equal(found.hidden_states[-1], found.last_hidden_state)
    return max(float((a[keep] - b[keep]).abs().max()) for a, b in zip(ours, found.hidden_states, strict=True))


def compare_all(folder: Path) -> dict[str, float]:
    differences = {}
    recipes = small_recipes()
    recipes["per_layer"] = replace(recipes["vision"], frontend=replace(recipes["vision"].frontend, relative_bias="per_layer"))
    for label, recipe in recipes.items():
        run_dir = write_random_run(folder / label, recipe)
        for weights in ("student", "teacher"):
            export(find_stored_run(run_dir), weights, folder / f"{label}-{weights}")
            differences[f"{label} {weights}"] = largest_difference(folder / f"{label}-{weights}", run_dir, weights)
        differences[f"{label} swapped"] = largest_difference(folder / f"{label}-teacher", run_dir, "student")
    return differences


def test_hidden_states_of_student_and_teacher_are_the_trunks_within_1e_5(tmp_path: Path) -> None:
    (differences,) = run_distributed(compare_all, 1, tmp_path)
    swapped = [differences.pop(name) for name in list(differences) if name.endswith("swapped")]
    assert len(differences) == 8 and max(differences.values()) <= 1e-5, differences
    assert len(swapped) == 4 and min(swapped) > 1, "the comparison notices other weights"
    for label in ("text", "speech", "vision", "per_layer"):
        student, teacher = (load_file(tmp_path / f"{label}-{weights}" / "model.safetensors") for weights in ("student", "teacher"))
        assert student.keys() == teacher.keys()
        assert any(not torch.equal(student[name], teacher[name]) for name in student)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run dir for each modality, and the text run as 2 x 2 ranks wrote it."""
    folder = tmp_path_factory.mktemp("runs")
    run_distributed(write_runs, 1, folder)
    return folder


def write_runs(folder: Path) -> None:
    for modality, recipe in small_recipes().items():
        write_random_run(folder / modality, recipe)
        write_random_run(folder / f"{modality}-2x2", recipe, topology=(2, 2))
    for case in ("hf/text", "hf/audio", "hf/vision_shared"):
        write_imported_run(folder / case.replace("/", "-"), case)


@pytest.mark.parametrize("weights", ["student", "teacher"])
@pytest.mark.parametrize("modality", ["text", "speech", "vision"])
def test_a_checkpoint_of_two_by_two_ranks_gives_the_same_bytes(modality: str, weights: str, runs: Path, tmp_path: Path) -> None:
    for topology in ("", "-2x2"):
        export(find_stored_run(runs / f"{modality}{topology}"), weights, tmp_path / f"export{topology}")
    names = {path.name for path in (tmp_path / "export").iterdir()}
    assert names >= {"model.safetensors", "config.json", "README.md"}
    for name in names - {"README.md"}:
        assert (tmp_path / "export" / name).read_bytes() == (tmp_path / "export-2x2" / name).read_bytes(), name


@pytest.mark.parametrize("case", ["hf/text", "hf/audio", "hf/vision_shared"])
def test_an_imported_model_is_exported_tensor_for_tensor_with_its_configuration(case: str, runs: Path, tmp_path: Path) -> None:
    export(find_stored_run(runs / case.replace("/", "-")), "student", tmp_path / "out")
    source, found = load_file(GOLDEN / case / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == source.keys()
    assert all(torch.equal(found[name], source[name]) for name in source)
    config = json.loads((GOLDEN / case / "config.json").read_text())
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config


def test_the_head_of_a_task_that_the_source_had_is_not_named_in_the_export(runs: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "hf-text", tmp_path / "run"))
    path = run / "huggingface" / "config.json"
    config = json.loads(path.read_text()) | {"architectures": ["Data2VecTextForMaskedLM"], "torch_dtype": "float16"}
    path.write_text(json.dumps(config))
    export(find_stored_run(run), "student", tmp_path / "out")
    exported = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (exported["architectures"], exported["dtype"]) == (["Data2VecTextModel"], "float32") and "torch_dtype" not in exported


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
        f"student of {runs / 'vision' / 'checkpoints' / f'step_{STEP:08d}'}: 36 tensors, {size:,} bytes, written to {out}"
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
    (out / "old").touch()
    export(find_stored_run(runs / "vision"), "student", out, replace=True)
    assert json.loads((out / "config.json").read_text())["model_type"] == "data2vec-vision"
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and not (out / "old").exists()


@pytest.mark.parametrize("content", [None, "{", '{"model_type": "bert"}', "[]", '{"recipe": {}}'])
def test_force_refuses_a_folder_that_is_no_export(content: str | None, runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    if content is not None:
        (out / "config.json").write_text(content)
    with pytest.raises(
        ConfigError, match=r"--out \S+out: is no export \(no config\.json with model_type data2vec-\*\), so --force does not"
    ):
        export(find_stored_run(runs / "text"), "student", out, replace=True)
    assert (out / "mine").exists()


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
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "no complete checkpoint yet"),
        (lambda path: path.unlink(), "no complete checkpoint yet"),
    ],
    ids=["flipped bit", "truncated", "missing"],
)
def test_a_damaged_checkpoint_leaves_nothing_and_keeps_the_old_export(
    action: Callable[[Path], object], complaint: str, runs: Path, tmp_path: Path
) -> None:
    run, out = Path(shutil.copytree(runs / "text", tmp_path / "run")), tmp_path / "old"
    export(find_stored_run(run), "student", out)
    (out / "mine").touch()
    damage(run, action)
    for target, replace_it in ((tmp_path / "new", False), (out, True)):
        with pytest.raises(ConfigError, match=complaint):
            export(find_stored_run(run), "teacher", target, replace=replace_it)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "run"] and (out / "mine").exists()


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
    (out / "mine").touch()
    with pytest.raises(AssertionError, match="SIGKILL|-9|died"):
        run_distributed(killed_while_it_writes, 1, runs, out)
    assert (out / "mine").exists() and len(list(tmp_path.iterdir())) == 2
    export(find_stored_run(runs / "text"), "student", out, replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and not (out / "mine").exists()


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
