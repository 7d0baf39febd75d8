"""Writes docs/cluster-sizes.md: what launch/plan.py says about large networks on 1 to 512 GPUs.

python benchmarks/cluster_sizes.py
"""

import sys
from collections.abc import Iterator, Sequence

from recipes.catalog import RECIPES
from recipes.check import changed_recipe
from recipes.cluster.checkout import ROOT
from recipes.cluster.command import exit_code_of
from recipes.config import Recipe
from recipes.ds_config import SHIPPED, load_ds_config
from recipes.plan.links import Cluster
from recipes.plan.memory import GIB
from recipes.planner.choices import choices, layout_of, least_memory
from recipes.planner.run_plan import RunPlan
from recipes.planner.show import in_days

PAGE = ROOT / "docs" / "cluster-sizes.md"
CONFIG = SHIPPED / "zero3_bf16.json"
DEVICE = "h100"
CLUSTERS = ("nodes=1,gpus=1", "nodes=1,gpus=8", "nodes=8,gpus=8", "nodes=64,gpus=8")


def wide(layers: int, width: int, heads: int) -> tuple[str, ...]:
    """Return the settings of a network of this size, which is not published."""
    sizes = f"model.hidden_size={width}", f"model.ffn_hidden_size={4 * width}", f"model.num_attention_heads={heads}"
    return (f"model.num_layers={layers}", *sizes, f"teacher.average_top_k_layers={layers}")


MODELS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "text_large": ("text_large", (), 8),
    "speech_large": ("speech_large", (), 8),
    "vision_large": ("vision_large", (), 16),
    "text, 1 billion": ("text_large", wide(32, 1536, 24), 8),
    "text, 7 billion": ("text_large", wide(32, 4096, 32), 2),
}
"""Name -> recipe, settings, and the fewest samples of an update for each GPU: more GPUs need a larger batch than the published one."""


def planned(recipe: Recipe, cluster: Cluster) -> RunPlan | None:
    """Return the fastest layout; None if none fits."""
    found = choices(recipe, load_ds_config(CONFIG), str(CONFIG), cluster)
    return found[0] if found else None


def batch_size(recipe: Recipe, num_ranks: int, least: int) -> int:
    """Return the published size of an update's batch, or `least` samples for each of the ranks if that is more."""
    step = num_ranks * recipe.data.group_size
    wanted = max(recipe.run.global_batch_size, least * num_ranks)
    return -(-wanted // step) * step


def rows() -> Iterator[Sequence[str]]:
    """Yield the rows of the table."""
    for name, (recipe_name, changes, least) in MODELS.items():
        modality = recipe_name.partition("_")[0]
        for text in CLUSTERS:
            cluster = Cluster.of_text(f"{text},device={DEVICE}")
            recipe = RECIPES[modality][recipe_name]()
            size = batch_size(recipe, cluster.num_ranks, least)
            recipe = changed_recipe(recipe, [*changes, f"run.global_batch_size={size}"], None)
            plan = planned(recipe, cluster)
            if plan is None:
                low = least_memory(recipe, load_ds_config(CONFIG), str(CONFIG), cluster)
                need = f"{low.memory.worst.total / GIB:.0f} GiB and {low.host_bytes / GIB:.0f} of the host" if low else "more"
                yield name, str(cluster.num_ranks), str(size), f"does not fit: at least {need}", *[""] * 6
            else:
                yield name, str(cluster.num_ranks), str(size), *figures(plan)


def figures(plan: RunPlan) -> Iterator[str]:
    """Yield the cells of a plan."""
    layout, batch, step = layout_of(plan.config), plan.config.batch, plan.step
    words = [f"micro {batch.micro_batch_size} x {batch.accumulation_steps}"]
    words += [f"TP {layout.tp_size}"] * (layout.tp_size > 1) + ["copy per node"] * (layout.shard_size is not None)
    words += ["offload"] * layout.offloads + ["recompute"] * layout.recomputes
    yield ", ".join(words)
    yield f"{plan.memory.worst.total / GIB:.1f}"
    yield f"{1e3 * step.total:,.0f}"
    yield step.binds
    yield f"{100 * plan.mfu:.0f}"
    yield in_days(plan.days)
    yield f"{plan.interruptions:.1f}, {plan.save_interval_seconds / 60:.0f}"


HEAD = """# Large networks on 1 to 512 GPUs, as planned

Made by `python benchmarks/cluster_sizes.py`, from the same arithmetic as [launch/plan.py](planner.md). Nothing here was measured on
several GPUs.

Device: {device}. Configuration: `{config}`, with the layout that is fastest by estimate. Batch: the published one, or a few samples for
each GPU if that is more. Days are those of the recipe's published number of updates, with interruptions.

| model | GPUs | batch | layout | GiB a rank | ms an update | binds | MFU, % | run | interruptions, save every min |
|---|---|---|---|---|---|---|---|---|---|
"""
TAIL = """
- **binds** is what takes longest: compute (products), memory (the bandwidth of the GPU's own, for all other kernels), host (Python),
  network, or loader.
- **copy per node**: `megatron.shard_size`. **recompute**: `activation_checkpointing`. **TP**: `tensor_model_parallel_size`.

## How to check each number
| number | how | where |
|---|---|---|
| GiB a rank | `benchmarks/plan_memory.py` counts every allocation; on a GPU the run prints its peak | [planner.md](planner.md#memory) |
| ms an update | train a few updates of the recipe and give the run to `launch/plan.py --calibrate` | [planner.md](planner.md#time) |
| host | `benchmarks/host_time.py --recipe text_large --world 64` on the cluster's own host | [performance.md](performance.md) |
| network | `benchmarks/plan_traffic.py` counts the bytes, nccl-tests measures the links | [planner.md](planner.md#traffic) |
| interruptions | `launch/ledger.py RUN_DIR`, which has the real ones and advises an interval | [reliability.md](reliability.md) |
"""


def main() -> int:
    """Write the page. Returns 0."""
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows())
    PAGE.write_text(HEAD.format(device=DEVICE, config=CONFIG.name) + table + TAIL)
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
