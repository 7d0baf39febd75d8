"""Measures the bytes of the activations of one micro-batch, forward and backward, beside the estimate of recipes/plan/activations.py.
On the CPU the allocator's records count, on CUDA torch.cuda.max_memory_allocated.

python benchmarks/activation_memory.py --json
python benchmarks/activation_memory.py --recipe text_base --batch 4 --length 512 --precision bf16 --recompute
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from model.activations import Storage
from model.parallel import having_a_world, parallel_alone
from plain_step import PlainStep
from recipes.cluster.command import exit_code_of
from recipes.cluster.environment import quiet_libraries
from recipes.config import Recipe
from recipes.objectives.data2vec import regress
from recipes.plan.activations import VALUE_BYTES, activation_bytes
from step_time import build_recipe, random_batch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Case(NamedTuple):
    """One micro-batch of a recipe. `length`: tokens of a text, seconds of a recording, 0 for images. `dropout`: "published" or a number."""

    recipe: str
    batch: int
    length: int
    dropout: str = "published"
    precision: str = "fp32"
    recomputes: bool = False


CASES = (
    Case("text_base", 2, 128),
    Case("text_base", 1, 512),
    Case("text_base", 4, 128, dropout="0"),
    Case("text_base", 2, 256, precision="bf16"),
    Case("text_base", 4, 128, recomputes=True),
    Case("text_tiny", 16, 128),
    Case("speech_base", 1, 4),
    Case("speech_base", 2, 2, dropout="0", precision="bf16"),
    Case("speech_tiny", 8, 4),
    Case("vision_base", 2, 0),
    Case("vision_base", 4, 0, dropout="0", precision="bf16"),
    Case("vision_tiny", 32, 0),
)
"""Twelve micro-batches of all modalities, small enough for a CPU."""


def compare(case: Case) -> dict:
    """Return the measured and the estimated bytes of a case, and by which share the estimate is off."""
    recipe = build_recipe(case.recipe, batch=case.batch, length=case.length, dropout=case.dropout)
    return case._asdict() | compare_recipe(recipe, case)


def compare_recipe(recipe: Recipe, case: Case) -> dict:
    """Return the measured and the estimated bytes of one micro-batch of `recipe`. `case` has its size, precision and checkpointing."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with having_a_world():
        measured = measured_bytes(recipe, case, device)
    storage = Storage(VALUE_BYTES[case.precision], on_gpu=device.type == "cuda")
    length = case.length * getattr(recipe.data, "sample_rate", 1)
    found = activation_bytes(recipe, storage, case.batch, recomputes=case.recomputes, length=length)
    return {"measured_bytes": measured, "estimated_bytes": found.total, "error": round(found.total / measured - 1, 4)}


def measured_bytes(recipe: Recipe, case: Case, device: torch.device) -> int:
    """Return the most bytes that one forward and backward of student and teacher take beside weights and gradients, in plain torch."""
    plain = PlainStep(recipe, parallel_alone(), device=device, dtype=DTYPES[case.precision])
    for block in plain.student.trunk.encoder.layers:
        block.recomputes = case.recomputes
    for weight in plain.student.parameters():
        weight.grad = torch.zeros_like(weight)
    batch = random_batch(recipe, case.batch, case.length).to(device)

    def run() -> None:
        outcome = regress(plain.student, plain.teacher, batch, recipe.loss)
        (outcome.loss / batch.masks.num_masked).backward()

    return (_peak_on_cuda if device.type == "cuda" else _peak_on_cpu)(run)


def _peak_on_cuda(run: Callable[[], None]) -> int:
    run()  # workspaces of the libraries
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def _peak_on_cpu(run: Callable[[], None]) -> int:
    """Return the largest sum of the allocator's records of new and freed blocks."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    records = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = largest = 0
    for event in sorted(records, key=lambda event: event.start_ns()):
        now += event.nbytes()
        largest = max(largest, now)
    return largest


def main() -> int:
    """Parse the flags, compare the twelve cases or the one that is named, and print a line or a JSON object for each. Returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", help="measure this one instead of the twelve cases")
    parser.add_argument("--batch", type=int, default=4, help="samples of the micro-batch")
    parser.add_argument("--length", type=int, default=0, help="tokens of a text, seconds of a recording")
    parser.add_argument("--dropout", default="published", help='"published" or a number')
    parser.add_argument("--precision", default="fp32", choices=list(DTYPES))
    parser.add_argument("--recompute", action="store_true", help="with activation checkpointing")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    args = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(1)  # the bytes do not depend on it, and this process may share its cores
    named = Case(args.recipe or "", args.batch, args.length, args.dropout, args.precision, args.recompute)
    for case in [named] if args.recipe else CASES:
        row = compare(case)
        print(json.dumps(row) if args.json else ", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
