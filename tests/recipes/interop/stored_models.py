"""Run dirs with random weights for tests, as runs of any recipe and topology would leave them, and the hidden states of their networks."""

import json
import shutil
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import EncoderConfig
from model.trunk import Trunk
from recipes.checkpoint.layout import Counters, FileEntry, Manifest, ParameterEntry, Range, range_to_json, step_folder, write_manifest
from recipes.checkpoint.tensor_file import HASHED_ELEMENTS, hashes_of, write_tensors
from recipes.config import Recipe
from recipes.interop.hf_files import CONFIG
from recipes.interop.hf_format import FORMATS
from recipes.interop.hf_text import TOKENS, fold_token_types, has_token_type
from recipes.interop.import_source import FOLDER, UNREAD
from recipes.interop.imported_recipe import template_of
from recipes.interop.shapes import Shapes
from recipes.interop.trunk import build_trunk
from recipes.settings import recipe_to_dict
from recipes.speech import speech_base
from recipes.text import text_base
from recipes.vision import vision_base
from tests.recipes.checkpoint.pieces import shard

State = dict[str, Tensor]
GOLDEN = Path(__file__).parents[2] / "golden"
STEP = 7
HEAD: Shapes = {"head.0.weight": (3, 8), "head.0.bias": (3,)}
"""Parameters that only the student has."""
FACTS = {"versions": {"torch": "2.13.0"}, "git_commit": "0123456789abcdef", "data_fingerprint": "feed"}


class Split(NamedTuple):
    """How a parameter is stored: its whole shape, and the dimension that is split over tensor-parallel ranks (None: not split)."""

    shape: tuple[int, ...]
    tp_dim: int | None


def small(recipe: Recipe, **frontend: Any) -> Recipe:
    """Return a published recipe with two narrow blocks of its own kind and with these settings of its front-end."""
    model: EncoderConfig = replace(recipe.model, num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4)
    teacher = replace(recipe.teacher, average_top_k_layers=1)
    return replace(recipe, model=model, teacher=teacher, frontend=replace(recipe.frontend, **frontend))


def small_recipes() -> dict[str, Recipe]:
    """Return the published recipe of each modality with few channels."""
    return {
        "text": small(text_base(), vocab_size=100, max_positions=24),
        "speech": small(speech_base(), conv_dim=16),
        "vision": small(vision_base(), image_size=32, patch_size=8),
    }


def random_state(trunk: Trunk, seed: int) -> State:
    """Return random weights for every parameter of the trunk, large enough that each one matters. Padding rows of the token table and
    its row of `<pad>` stay 0."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for name, parameter in trunk.named_parameters():
        noise = torch.empty(parameter.shape).normal_(0, 0.1, generator=generator)
        whole = parameter.detach() + noise
        if name == "frontend.tokens.weight":
            whole[parameter.detach().abs().sum(1) == 0] = 0
        state[f"trunk.{name}"] = whole
    return state


def splits_of(trunk: Trunk) -> dict[str, Split]:
    """Return how tensor parallelism splits each parameter of the student: the trunk, and a head that is not split."""
    found = {f"trunk.{name}": Split(tuple(p.shape), _tp_dim(p)) for name, p in trunk.named_parameters()}
    return found | {name: Split(shape, None) for name, shape in HEAD.items()}


def _tp_dim(parameter: Any) -> int | None:
    return parameter.partition_dim if getattr(parameter, "tensor_model_parallel", False) else None


def write_run(
    run_dir: Path,
    recipe: Recipe,
    splits: dict[str, Split],
    *,
    kinds: dict[str, State],
    topology: tuple[int, int] = (1, 1),
    head: Shapes = HEAD,
) -> Path:
    """Write a run dir with config.json and one checkpoint of `topology` = (tensor-parallel, data-parallel) ranks, and return it. `kinds`:
    kind (master, shadow) -> name -> whole tensor. A master without the parameters of `head` gets them."""
    tp_size, dp_size = topology
    kinds = {"master": {name: torch.ones(shape) for name, shape in head.items()} | kinds["master"]} | {"shadow": kinds.get("shadow", {})}
    folder = step_folder(run_dir, STEP)
    folder.mkdir(parents=True)
    files = [_write_file(folder, splits, kinds, (tp, tp_size), (dp, dp_size)) for dp in range(dp_size) for tp in range(tp_size)]
    entries = {
        name: ParameterEntry(split.shape, split.tp_dim, -(-prod(split.shape) // (1 if split.tp_dim is None else tp_size) // dp_size))
        for name, split in splits.items()
        if name in kinds["master"]
    }
    stored = recipe_to_dict(recipe)
    manifest = Manifest(Counters(STEP, 9, 72, 1999), tp_size, dp_size, entries, tuple(files), {"recipe": stored} | FACTS)
    write_manifest(folder, manifest)
    content = {"recipe": stored, "release": "0.7.0", "command": ["launch/pretrain.py", "--recipe", recipe.name], **FACTS}
    (run_dir / "config.json").write_text(json.dumps(content))
    return run_dir


def _write_file(folder: Path, splits: dict[str, Split], kinds: dict[str, State], tp: tuple[int, int], dp: tuple[int, int]) -> FileEntry:
    pieces, places = {}, {}
    for kind, name, full in ((kind, name, full) for kind, state in kinds.items() for name, full in state.items()):
        split = splits[name]
        cut = (0, 1) if split.tp_dim is None else tp
        local, offset, count = shard(full, split.tp_dim, cut, dp)
        if count == 0 or (split.tp_dim is None and tp[0] > 0):
            continue
        shape = tuple(size // cut[1] if dim == split.tp_dim else size for dim, size in enumerate(full.shape))
        key = f"{kind}/{name}"
        pieces[key] = local[offset : offset + count].clone()
        places[key] = range_to_json(Range(name, shape, split.tp_dim, *cut, offset, count, hashes_of(pieces[key]), HASHED_ELEMENTS))
    path = folder / f"rank_{dp[0] * tp[1] + tp[0]:05d}.safetensors"
    header = write_tensors(path, {key: tuple(piece.shape) for key, piece in pieces.items()}, pieces.values(), places)
    return FileEntry(path.name, path.stat().st_size, header, tp[0], dp[0])


def write_random_run(run_dir: Path, recipe: Recipe, topology: tuple[int, int] = (1, 1)) -> Path:
    """Write a run whose student and teacher have different random weights, and return it. The teacher has no values of its own for what
    it shares. It must run in a process with a process group."""
    trunk = build_trunk(recipe, torch.device("cpu"))
    shared = {f"trunk.frontend.{name}" for name in trunk.frontend.shared_parameters(recipe.teacher.shares)}
    teacher = {name: tensor for name, tensor in random_state(trunk, 2).items() if name not in shared}
    kinds = {"master": random_state(trunk, 1), "shadow": teacher}
    return write_run(run_dir, recipe, splits_of(trunk), kinds=kinds, topology=topology)


def write_imported_run(run_dir: Path, case: str) -> Path:
    """Write a run dir as an import of the golden Hugging Face model `case` leaves it, and return it: student and teacher are the source,
    what the model has no place for is kept beside. It must run in a process with a process group."""
    source = {name: tensor.float() for name, tensor in load_file(GOLDEN / case / "model.safetensors").items()}
    config = json.loads((GOLDEN / case / "config.json").read_text())
    one = FORMATS[config["model_type"]]
    recipe = one.recipe_of(template_of(one.modality, None), config)
    table = one.names(recipe)
    kept = {name: tensor for name, tensor in source.items() if table.our_name(name) is None}
    if has_token_type(source):
        kept[TOKENS] = source[TOKENS]
    trunk = build_trunk(recipe, torch.device("cpu"))
    state = random_state(trunk, 1) | table.to_ours(fold_token_types(source))
    write_run(run_dir, recipe, splits_of(trunk), kinds={"master": state, "shadow": state})
    (run_dir / FOLDER).mkdir()
    shutil.copy(GOLDEN / case / "config.json", run_dir / FOLDER / CONFIG)
    save_file(kept, run_dir / FOLDER / UNREAD)
    return run_dir


def hidden_states(trunk: Trunk, inputs: Tensor, padding_mask_BS: Tensor | None = None) -> list[Tensor]:
    """Return the encoder's input and the output of each block, prefix tokens included. Shapes: each (batch, positions, channels)."""
    found: list[Tensor] = []
    hooks = [trunk.frontend.register_forward_hook(lambda module, args, out: found.append(out.x_BSD))]
    hooks += [
        block.register_forward_hook(lambda module, args, out: found.append(out.block_SBD.transpose(0, 1))) for block in trunk.encoder.layers
    ]
    with torch.no_grad():
        trunk(inputs, None, padding_mask_BS, keep_from=0)
    for hook in hooks:
        hook.remove()
    return found
