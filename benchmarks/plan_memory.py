"""Measures the memory of a rank on a CPU while a run is built, trained and saved, beside what the planner says (recipes/plan/memory.py).
Every allocation and release of torch's allocator is recorded.

python benchmarks/plan_memory.py                      all cases, each on its own ranks
python benchmarks/plan_memory.py --case 3             one case
python benchmarks/plan_memory.py --study FILE         the cells of a study, once for each plan
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from allocations import HeldBytes, preloaded
from recipes.catalog import RECIPES
from recipes.cluster.checkout import ROOT
from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries, world_from_environment
from recipes.config import Recipe
from recipes.ds_config import EngineConfig, load_ds_config, resolve
from recipes.modalities.registry import MODALITIES
from recipes.plan.memory import memory_plan
from recipes.settings import apply_overrides
from recipes.study.cells import cells_of
from recipes.study.study_file import read_study

UPDATES = 6
"""Measured updates. The optimizer makes its moments in the first one. How far gloo gets beside the forward differs; the most counts."""


class MemoryCase(NamedTuple):
    """A run whose memory is measured. `length`: tokens of a text, seconds of a recording, 0 for images. `layers` 0: the recipe's own."""

    recipe: str
    batch: int
    length: int
    ranks: int = 1
    tp_size: int = 1
    config: str = "zero3_cpu"
    shard_size: int | None = None
    recomputes: bool = False
    micro_batches: int = 1
    layers: int = 0


CASES = (
    MemoryCase("text_tiny", 8, 128),
    MemoryCase("text_tiny", 8, 128, ranks=2),
    MemoryCase("text_tiny", 4, 128, ranks=4),
    MemoryCase("text_tiny", 8, 128, ranks=2, tp_size=2),
    MemoryCase("text_tiny", 4, 128, ranks=4, shard_size=2),
    MemoryCase("text_base", 2, 128, layers=2),
    MemoryCase("text_base", 2, 128, layers=2, recomputes=True),
    MemoryCase("text_base", 2, 128, layers=2, config="zero3_cpu_bf16"),
    MemoryCase("text_base", 2, 128, layers=2, ranks=2, config="zero3_cpu_bf16"),
    MemoryCase("text_base", 2, 128, layers=2, ranks=2, tp_size=2, micro_batches=2),
    MemoryCase("text_base", 1, 128, layers=2, ranks=4, tp_size=2, config="zero3_bf16"),
    MemoryCase("text_base", 1, 128, layers=4, ranks=4, config="zero3_bf16"),
    MemoryCase("text_base", 2, 128, layers=2, config="zero3_offload_cpu"),
    MemoryCase("text_base", 2, 128, layers=2, ranks=2, config="zero3_offload_cpu"),
    MemoryCase("text_base", 1, 128, layers=2, ranks=4, shard_size=2, config="zero3_bf16"),
    MemoryCase("speech_tiny", 4, 4),
    MemoryCase("speech_tiny", 4, 4, ranks=2),
    MemoryCase("speech_base", 1, 3, layers=2),
    MemoryCase("speech_base", 1, 3, layers=2, ranks=2, tp_size=2, config="zero3_bf16"),
    MemoryCase("speech_base", 1, 3, layers=2, ranks=4, recomputes=True, config="zero3_bf16"),
    MemoryCase("vision_tiny", 16, 0),
    MemoryCase("vision_tiny", 16, 0, ranks=2, tp_size=2),
    MemoryCase("vision_base", 2, 0, layers=2),
    MemoryCase("vision_base", 2, 0, layers=2, ranks=2, config="zero3_bf16"),
    MemoryCase("vision_base", 2, 0, layers=2, ranks=4, shard_size=2, micro_batches=2),
)
"""Runs of all modalities on 1, 2 and 4 ranks, small enough for a CPU."""


class Subject(NamedTuple):
    """What is measured. `length`: as in MemoryCase."""

    name: str
    recipe: Recipe
    config: EngineConfig
    length: int


def subjects(study: Path | None) -> list[Subject]:
    """Return what is measured: CASES, or the cells of a study whose plans differ."""
    if study is None:
        return [Subject(str(case._asdict()), *settings(case), case.length) for case in CASES]
    cells = {(cell.ranks, cell.plan.memory.worst.total): cell for cell in cells_of(read_study(study)) if not cell.refused}
    return [Subject(cell.name, cell.recipe, cell.config, _longest(cell.recipe)) for cell in cells.values()]


def _longest(recipe: Recipe) -> int:
    return recipe.data.longest_sample // _sample_rate(recipe)


def _sample_rate(recipe: Recipe) -> int:
    return getattr(recipe.data, "sample_rate", 1)


def settings(case: MemoryCase) -> tuple[Recipe, EngineConfig]:
    """Return the recipe and the ds_config of a case."""
    modality = case.recipe.partition("_")[0]
    recipe = MODALITIES[modality].resized(RECIPES[modality][case.recipe](), case.length)
    dp_size = case.ranks // case.tp_size
    changes = [f"run.global_batch_size={case.batch * dp_size * case.micro_batches}"]
    if recipe.data.group_size > 1:
        changes.append(f"data.group_size={case.batch}")
    if case.layers:
        changes += [f"model.num_layers={case.layers}", f"teacher.average_top_k_layers={case.layers}"]
    recipe = apply_overrides(recipe, changes)
    path = ROOT / "ds_configs" / f"{case.config}.json"
    content = load_ds_config(path) | {"train_micro_batch_size_per_gpu": case.batch}
    megatron = {"tensor_model_parallel_size": case.tp_size, "teacher_gather": "update"}
    if case.shard_size:
        megatron["shard_size"] = case.shard_size
    if case.recomputes:
        content["activation_checkpointing"] = {"enabled": True}
    return recipe, resolve(recipe, content | {"megatron": content.get("megatron", {}) | megatron}, str(path), case.ranks)


class Recorded:
    """Bytes that this rank holds at the end of each phase, and the most in it, counted from the start."""

    def __init__(self) -> None:
        self._held = HeldBytes()
        self._start = self._held.now()
        self.most: dict[str, int] = {}
        self.end: dict[str, int] = {}

    def run(self, name: str, job: Callable[[], Any]) -> Any:
        """Call `job` as the phase `name` and return its result."""
        self._held.restart()
        result = job()
        gc.collect()
        self.most[name], self.end[name] = self._held.most() - self._start, self._held.now() - self._start
        return result


def measure(subject: Subject, folder: Path) -> dict[str, Any]:
    """Build the run of `subject`, update it, and save it in `folder`. Return the recorded bytes of the rank with the most."""
    import torch

    from model.parallel import init_parallel
    from recipes.checkpoint.layout import Counters
    from recipes.checkpoint.save import CheckpointSaver
    from recipes.cluster.world import join_world, leave_world
    from recipes.objectives.registry import build_objective
    from step_recipe import random_batch
    from timed_update import EngineSteps

    torch.set_num_threads(1)
    recipe, config = subject.recipe, subject.config
    world = join_world()
    parallel = init_parallel(config.batch.tp_size, world.device.type, config.batch.num_replicas)
    recorded = Recorded()
    batch = random_batch(recipe, config.batch.micro_batch_size, subject.length).to(world.device)
    objective = recorded.run("build", lambda: build_objective(recipe, config, parallel))
    steps = EngineSteps(recipe, objective, batch, world)

    def train() -> None:
        for _ in range(UPDATES):
            steps.update(micro_batches=config.batch.accumulation_steps)

    before = bytes_of_tensors() - recorded.end["build"]  # the batch and what else is older
    recorded.run("train", train)
    libraries = recorded.end["train"] - (bytes_of_tensors() - before)
    saver = CheckpointSaver(folder, objective, world, recipe.checkpoint)

    def save() -> None:
        saver.begin(Counters(step=UPDATES), {})
        saver.finish()

    recorded.run("save", save)
    saver.close()
    everyone = world.gather({"most": recorded.most, "libraries": libraries, "states": recorded.end["build"]})
    leave_world()
    most = {phase: max(one["most"][phase] for one in everyone) for phase in recorded.most}
    return {"most": most, "libraries": libraries, "states": recorded.end["build"]}


def bytes_of_tensors() -> int:
    """Return the bytes of all tensors that Python can reach."""
    import torch

    sizes = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def measure_apart(subject: Subject, flags: Sequence[str]) -> dict[str, Any]:
    """Measure `subject`, which `flags` name, on processes of its own. Return the bytes of the rank with the most."""
    ranks = subject.config.batch.world_size
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", __file__]
    with tempfile.TemporaryDirectory() as folder:
        environment = preloaded(dict(os.environ), Path(folder))
        done = subprocess.run([*command, *flags, "--inside"], env=environment, capture_output=True, text=True, timeout=900, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not found:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(found[-1])


def compare(subject: Subject, flags: Sequence[str]) -> dict[str, Any]:
    """Return measured and planned bytes of `subject`, and how much the plan is off. The libraries' own memory, which is left when an update
    is over and is in no tensor, is taken off the measured bytes."""
    length = subject.length * _sample_rate(subject.recipe)
    plan = memory_plan(subject.recipe, subject.config, on_gpu=False, length=length)
    measured = measure_apart(subject, flags)
    own = {"build": 0, "train": measured["libraries"], "save": measured["libraries"]}
    rows = {}
    for phase in own:
        planned, seen = getattr(plan, phase).total, measured["most"][phase] - own[phase]
        rows[phase] = {"measured": seen, "planned": planned, "percent_off": round(100 * (planned / seen - 1), 2)}
    states_off = measured["states"] - planned_states(subject)
    return {"case": subject.name, **rows, "libraries": measured["libraries"], "states_off": states_off}


def planned_states(subject: Subject) -> int:
    """Return the bytes that a rank holds when all networks are built: states without moments, and buffers."""
    phase = memory_plan(subject.recipe, subject.config, on_gpu=False).save.device
    small = phase.get("buffers", {}).get("small whole weights", 0)  # gathered by the first update
    buffers = sum(phase.get("buffers", {}).values()) - small
    return round(sum(phase["states"].values()) - phase["states"]["moments"] + buffers)


def main() -> int:
    """Parse the flags, measure, and print a JSON object for each case. Returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=int, help="number of a case or cell, from 0 (default: all)")
    parser.add_argument("--study", type=Path, metavar="FILE", help="measure the cells of this study, or of one in recipes/studies/")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # one rank of a case
    args = parser.parse_args()
    quiet_libraries()
    found = subjects(args.study)
    if args.inside:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(found[args.case], Path(folder))
        if world_from_environment().rank == 0:
            print(json.dumps(result), flush=True)
        return 0
    study = [] if args.study is None else ["--study", str(args.study)]
    for number in range(len(found)) if args.case is None else [args.case]:
        print(json.dumps(compare(found[number], ["--case", str(number), *study])), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
