"""The objective of a replay: build it, load and gather whole tensors, and get the layers' outputs. Compares nothing.

Shapes: B batch, S sequence (CLS first where there is one), D hidden, C channels, T frames, H heads.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.batch import Batch
from model.parallel import init_parallel
from recipes.config import Recipe
from recipes.ds_config import EngineConfig, resolve
from recipes.engine import shards
from recipes.errors import ConfigError
from recipes.objectives.data2vec import Data2Vec
from recipes.objectives.registry import build_objective


def build(recipe: Recipe, tp_size: int) -> Data2Vec:
    """Build engines in fp32 with plain SGD, one micro-batch per rank and update, and no clipping."""
    size = dist.get_world_size() // tp_size
    recipe = replace(recipe, run=replace(recipe.run, global_batch_size=size), optim=replace(recipe.optim, clip_norm=0.0))
    return build_with_sgd(recipe, tp_size, micro_batch_size=1, lr=0.1)[0]


def build_with_sgd(recipe: Recipe, tp_size: int, *, micro_batch_size: int, lr: float) -> tuple[Data2Vec, EngineConfig]:
    """Build engines in fp32 with plain SGD. Return them and their configuration. `lr` is used until a loop sets another."""
    content = {"train_micro_batch_size_per_gpu": micro_batch_size, "megatron": {"tensor_model_parallel_size": tp_size}}
    config = resolve(recipe, content, "replay", dist.get_world_size())

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=lr)

    objective = build_objective(recipe, config, init_parallel(tp_size, device_type()), optimizer=optimizer)
    assert isinstance(objective, Data2Vec)
    return objective, config


def device_type() -> str:
    """Return the type of the device that join_world has chosen."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def load_student(objective: Data2Vec, ours: dict[str, Tensor], not_saved: tuple[str, ...] = ()) -> None:
    """Write whole tensors into the student's shards. The teacher becomes a copy of the student.

    Raises: ConfigError if names of the model and of the tensors differ, except for names that begin with `not_saved`.
    """
    parameters = dict(shards.named_parameters(objective.student))
    missing = sorted(n for n in parameters.keys() - ours.keys() if not n.startswith(not_saved))
    if missing or ours.keys() - parameters.keys():
        unknown = sorted(ours.keys() - parameters.keys())
        raise ConfigError(f"configuration and weights do not belong together: the weights lack {missing} and bring {unknown}")
    for name, tensor in ours.items():
        if tensor.numel() != (whole := numel(parameters[name], objective)):
            raise ConfigError(f"{name} has {tensor.numel()} numbers, the configuration wants {whole}; do they belong together?")
        shards.scatter_full(parameters[name], tensor, objective.parallel, shards.master_shard(parameters[name]))
    shards.refresh_compute_weights(objective.student)
    objective.restart()


def numel(parameter: Any, objective: Data2Vec) -> int:
    """Return the number of elements of the whole tensor to which a parameter's shard belongs."""
    return parameter.ds_numel * (objective.parallel.tp_size if shards.is_split(parameter) else 1)


def whole(objective: Data2Vec, shard_of: Callable[[nn.Parameter], Tensor]) -> dict[str, Tensor]:
    """Return whole tensors of the student by our names. shard_of(parameter) is the shard to gather."""
    return {n: shards.gather_full(p, shard_of(p), objective.parallel) for n, p in shards.named_parameters(objective.student)}


def whole_teacher(objective: Data2Vec) -> dict[str, Tensor]:
    """Return whole tensors of the teacher by our names, in float32."""
    parameters = dict(shards.named_parameters(objective.student))
    return {n: shards.gather_full(parameters[n], shard, objective.parallel) for n, shard in objective.shadow.shadows.items()}


def my_rows(objective: Data2Vec, tensor: Tensor) -> Tensor:
    """Return this DP rank's share of the rows. If they do not divide evenly, the first ranks have one row more."""
    return tensor.tensor_split(objective.parallel.dp_size)[objective.parallel.dp_rank]


def gather_rows(objective: Data2Vec, rows: Tensor) -> Tensor:
    """Return the rows of all DP ranks in order."""
    return torch.cat(_gather(rows, objective.parallel.dp_size, objective.parallel.dp_group))


def _gather(tensor: Tensor, size: int, group: Any) -> list[Tensor]:
    parts: list[Any] = [None] * size
    dist.all_gather_object(parts, tensor.detach(), group=group)
    return parts


def layer_outputs(objective: Data2Vec, batch: Batch) -> dict[str, Tensor]:
    """Return the outputs of the student's layers in eval mode, gathered from all ranks' rows, under the golden files' names."""
    rows: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    trunk = objective.student.module.trunk
    hooks = [*_watch_frontend(trunk.frontend, rows, heads), trunk.encoder.register_forward_hook(lambda m, i, out: rows.update(out=out[0]))]

    def record(number: int, module: Any, inputs: Any, out: Any) -> None:
        rows.update({f"ffn.{number}": out.ffn_SBD.transpose(0, 1), f"hidden.{number + 1}": out.block_SBD.transpose(0, 1)})

    hooks += [block.register_forward_hook(partial(record, number)) for number, block in enumerate(trunk.encoder.layers)]
    objective.student.eval()
    with torch.no_grad():
        objective.student(batch.to(objective.student.device))
    objective.student.train()
    for hook in hooks:
        hook.remove()
    gathered = {name: gather_rows(objective, tensor) for name, tensor in rows.items()}
    parallel = objective.parallel
    return gathered | {name: torch.cat(_gather(tensor, parallel.tp_size, parallel.tp_group)) for name, tensor in heads.items()}


def _watch_frontend(frontend: nn.Module, rows: dict[str, Tensor], heads: dict[str, Tensor]) -> list[Any]:
    """Register hooks on the outputs that the front-end has: encoder input, features (before and after their norm), patches, bias."""

    def record(module: Any, inputs: Any, out: Any) -> None:
        rows["hidden.0"] = out.x_BSD
        if out.bias_LHSS is not None:
            heads["rel_pos_bias"] = out.bias_LHSS[0]

    watched: dict[str, Callable[..., Any]] = {
        "extractor": lambda m, i, out: rows.update(conv_features_BCT=out.transpose(1, 2)),
        "feature_norm": lambda m, i, out: rows.update(extract_features=out),
        "patches": lambda m, i, out: rows.update(patch_embed=out),
    }
    children = dict(frontend.named_children())
    return [
        frontend.register_forward_hook(record),
        *(children[name].register_forward_hook(hook) for name, hook in watched.items() if name in children),
    ]
