"""Topology and precision of a small run, for tests of checkpoints. Imports no torch, so that it can be pickled to any rank."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipes.catalog import RECIPES, default_recipe
from recipes.check import resolve_recipe
from recipes.config import Recipe
from recipes.ds_config import EngineConfig, load_ds_config, resolve
from tests.launching import overrides
from tests.made_up import WRITE

ROOT = Path(__file__).parents[3]
SIZES: dict[str, object] = {
    "model__num_layers": 2,
    "model__hidden_size": 32,
    "model__ffn_hidden_size": 64,
    "model__num_attention_heads": 4,
    "model__hidden_dropout": 0,
    "model__attention_dropout": 0,
    "model__block__layerdrop": 0,
    "model__block__drop_path": 0,
    "teacher__average_top_k_layers": 2,
    "optim__warmup_steps": 5,
    "data__heldout_fraction": 0.2,
}
"""Settings of small_recipe. Heads and inner width are divisible by four. The other sizes are those of tests/launching.py. The global batch
is 8."""

KINDS = ("master", "exp_avg", "exp_avg_sq", "shadow")
"""Kinds of tensors in a checkpoint of data2vec, in the order in which they are written."""

ODD = ("model.hidden_size=33", "model.ffn_hidden_size=63", "model.num_attention_heads=1")
"""Settings with which, for most parameters, the second of two data-parallel ranks holds one element less than the first, and padding
instead."""


@dataclass(frozen=True)
class Topology:
    """Numbers of tensor-parallel and data-parallel ranks of a run, its precision, and whether the optimizer's state is in host memory.
    Also the number of copies of the model, whether its teacher is gathered once per update, and whether its blocks are leaf modules."""

    tp_size: int = 1
    dp_size: int = 1
    precision: str = "fp32"
    offload: bool = False
    num_replicas: int = 1
    gathers_once: bool = False
    has_leaf_modules: bool = False

    @property
    def world_size(self) -> int:
        """Number of ranks: tp_size x dp_size."""
        return self.tp_size * self.dp_size

    @property
    def name(self) -> str:
        """The name of this topology, such as tp2dp1_fp32 or tp1dp4_fp32_offload."""
        others = {"_offload": self.offload, "_replicas": self.num_replicas > 1, "_once": self.gathers_once, "_leaf": self.has_leaf_modules}
        return f"tp{self.tp_size}dp{self.dp_size}_{self.precision}" + "".join(name for name, is_set in others.items() if is_set)

    def config(self, recipe: Recipe, zero: dict[str, Any] | None = None) -> EngineConfig:
        """Return the resolved ds_config for this topology, made from zero3_cpu.json. `zero`: keys that replace those of its
        zero_optimization."""
        content = load_ds_config(ROOT / "ds_configs" / "zero3_cpu.json")
        content["megatron"] = {
            "tensor_model_parallel_size": self.tp_size,
            "teacher_gather": "update" if self.gathers_once else "layer",
            **({"shard_size": self.dp_size // self.num_replicas} if self.num_replicas > 1 else {}),
        }
        if not self.has_leaf_modules:
            del content["zero_optimization"]["leaf_module"]
        content["bf16"] = {"enabled": self.precision == "bf16"}
        if self.offload:
            content["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
        content["zero_optimization"] |= zero or {}
        return resolve(recipe, content, "test", self.world_size)

    def but(self, **changes: Any) -> "Topology":
        """Return a copy of this topology with changed fields."""
        return replace(self, **changes)


CUTS = tuple(Topology(tp, dp) for tp, dp in ((1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1)))


def small_recipe(modality: str, *settings: str) -> Recipe:
    """Return the modality's tiny recipe, reduced so that a step takes milliseconds, with all dropout off. `settings`: further KEY=VALUE."""
    return resolve_recipe(default_recipe(modality), RECIPES[modality], [*overrides(modality, **SIZES)[1::2], *settings], None)


def prepare_small(modality: str, folder: Path) -> Path:
    """Write made-up raw data for small_recipe into an empty folder, prepare them, and return the prepared folder."""
    from recipes.modalities.registry import MODALITIES

    recipe = small_recipe(modality)
    data = replace(recipe.data, path=str(WRITE[modality](folder)))
    return MODALITIES[modality].prepare(replace(recipe, data=data), folder / "prepared", num_processes=1)
