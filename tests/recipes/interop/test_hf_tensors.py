"""Exports of random models of all three modalities: transformers loads them completely and computes the same hidden states; an imported
model comes out as it went in; one tensor is held at a time. transformers is imported in tests only."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from recipes.finetune.trunk import find_probed_run, load_trunk
from recipes.interop.export import export
from recipes.interop.stored_run import find_stored_run
from tests.distributed import run_distributed
from tests.recipes.interop.stored_models import GOLDEN, hidden_states, small_recipes, write_random_run

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
