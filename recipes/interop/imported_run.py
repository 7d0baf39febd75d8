"""Writes the run dir of an imported model: config.json, the checkpoint of step 0, tokenizer, files of the source, and an event. The run
dir appears complete or not at all. Where the model comes from is in hf_import.py and fairseq_import.py."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.dropout import DropoutStream
from model.init import Init
from model.parallel import having_a_world, parallel_alone
from model.student import Student
from recipes.checkpoint.tensor_file import write_tensors
from recipes.checkpoint.whole import Values, entry_of, write_whole
from recipes.cluster.launch_info import launch_info
from recipes.config import Recipe
from recipes.data.tokenizer import ENCODING
from recipes.engine.shards import MOMENTS
from recipes.interop.hf_files import CONFIG
from recipes.interop.import_source import FOLDER, UNREAD
from recipes.interop.imported_model import ImportedModel, fill
from recipes.interop.imported_tokenizer import ImportedTokenizer
from recipes.modalities.registry import modality_of
from recipes.objectives.data2vec import TRUNK
from recipes.settings import recipe_to_dict
from recipes.system.atomic_folder import atomic_folder


def write_imported_run(run_dir: Path, model: ImportedModel) -> list[str]:
    """Write the run dir of an imported model. It needs host memory for the network once. Return lines for the user.

    Raises: ConfigError if weights and recipe do not fit, or the disk cannot be written; nothing is left there then.
    """
    with having_a_world():  # Megatron's layers need one
        parameters = dict(build_student(model.recipe).named_parameters())
    new = fill(parameters, model)
    with atomic_folder(run_dir.resolve()) as folder:
        info = {**launch_info(), "imported": model.origin, **_write_tokenizer(folder, model.tokenizer)}
        config = {"recipe": recipe_to_dict(model.recipe), **info}
        entries = {name: entry_of(parameter) for name, parameter in parameters.items()}
        write_whole(folder, entries, _values(parameters, model), {**config, "spikes": {}, "time": time.time()})
        _write_source(folder, model)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        event = {"time": time.time(), "event": "import", "step": 0, **model.origin}
        (folder / "events.jsonl").write_text(json.dumps(event) + "\n")
    return _lines(model, new, len(parameters))


def build_student(recipe: Recipe) -> nn.Module:
    """Return the network that a run of the recipe trains, whole, with the weights with which a new run starts. Call it in
    having_a_world()."""
    build_frontend = modality_of(recipe.modality, recipe.name).build_frontend(recipe)
    return Student(recipe.model, build_frontend, Init(recipe.run.seed), parallel_alone(), DropoutStream())


def _values(parameters: Mapping[str, nn.Parameter], model: ImportedModel) -> Values:
    """Return the tensors of a checkpoint of data2vec: weights, moments that are zero, and the teacher's weights. What a source's teacher
    does not have, it shares with its student."""
    teacher, own = model.teacher, set(model.teacher.names if model.teacher else ())
    weights: dict[str, Callable[[], Tensor]] = {name: parameter.detach for name, parameter in parameters.items()}
    shadow = {
        name: partial(teacher.tensor, name, parameters[name].shape) if teacher and name in own else read
        for name, read in weights.items()
        if name.startswith(TRUNK)
    }
    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    moments = {moment: {name: partial(torch.zeros, parameter.shape) for name, parameter in trained.items()} for moment in MOMENTS}
    return {"master": weights, **moments, "shadow": shadow}


def _write_tokenizer(folder: Path, tokenizer: ImportedTokenizer) -> dict[str, Any]:
    """Write the tokenizer to the two places where a run has it. Return what config.json and the manifest record about it; {} if the model
    reads none."""
    if tokenizer.file is None:
        return {"encoding": ENCODING} if tokenizer.is_needed else {}
    (folder / "prepared").mkdir()
    for place in (folder, folder / "prepared"):
        (place / tokenizer.file.name).write_bytes(tokenizer.file.content)
    # no data have this fingerprint, so that any are prepared with the kept tokenizer
    kept = {tokenizer.file.name: hashlib.sha256(tokenizer.file.content).hexdigest()}
    return {"data_fingerprint": None, "kept": kept, "encoding": ENCODING}


def _write_source(folder: Path, model: ImportedModel) -> None:
    if model.source_config is None:
        return
    source = folder / FOLDER
    source.mkdir()
    (source / CONFIG).write_bytes(model.source_config)
    tensors = {name: read() for name, read in model.unread.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    write_tensors(source / UNREAD, shapes, tensors.values(), {"format": "pt"})


def _lines(model: ImportedModel, new: list[str], num_parameters: int) -> list[str]:
    lines = [*model.notes, *model.tokenizer.notes]
    if new:
        modules = sorted({name.rpartition(".")[0] if name.endswith(("weight", "bias")) else name for name in new})
        lines.append(f"not in the source, so as in a new run (run.seed {model.recipe.run.seed}): {', '.join(modules)}")
    teacher = "a copy of the student"
    if model.teacher:
        num_own = sum(name.startswith(TRUNK) for name in model.teacher.names)
        teacher = f"the source's own ({num_own} tensors, the others are the student's)"
    return [*lines, f"{num_parameters - len(new)} of {num_parameters} tensors read; teacher: {teacher}; moments 0, step 0"]
