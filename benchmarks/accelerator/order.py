"""Check that a gather waits for the stream that writes the shards. The EMA writes the teacher's shards on the current stream, and
DeepSpeed gathers them on its own stream."""

import sys
from collections.abc import Iterator

import torch

from accelerator.commands import run
from accelerator.result import CANNOT, FAIL, OK, Row
from accelerator.setting import TinyRun, joined_world
from accelerator.worker import Context
from recipes.engine import shards

LONG_CYCLES = 2_000_000_000
"""Cycles of a kernel that does nothing for about a second."""
RANKS = 2
NEW, OLD = "the new weights were gathered", "the old weights were gathered"


def check_order(context: Context) -> Iterator[Row]:
    """Check the wait itself on one device, and whether old or new weights are gathered on two."""
    yield stream_waits(context)
    what = f"EMA write, then the teacher's gather behind a long kernel, two {'processes' if context.is_tiny else 'devices'}"
    if context.device == "cuda" and torch.cuda.device_count() < RANKS:
        yield Row(what, CANNOT, "there is one device, so nothing is gathered")
        return
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(RANKS)]
    done = run(context, "ranks", [*launcher, "-m", "accelerator.order", context.device])
    seen = [word for word in (NEW, OLD) if word in done.printed]
    if done.code or not seen:
        yield Row(what, FAIL, done.problem)
        return
    yield Row(what, OK if seen == [NEW] else FAIL, seen[-1])


def stream_waits(context: Context) -> Row:
    """Check on one device that DeepSpeed's stream waits for the current stream after the teacher was written."""
    what = "the teacher's gather waits for the EMA"
    if context.device == "cpu":
        return Row(what, CANNOT, "a CPU has no streams; tests/recipes/objectives/test_data2vec_order.py has the call")
    with joined_world() as (world, parallel):
        objective = TinyRun.build("text", "zero3_bf16", world, parallel).objective
        objective.after_step(1)  # the first call loads kernels, which may wait for the device
        torch.cuda.synchronize()
        torch.cuda._sleep(LONG_CYCLES)
        objective.after_step(2)
        reached = torch.cuda.Event()
        reached.record(shards.gather_stream(objective.teacher))
        is_held_up = not reached.query()
        torch.cuda.synchronize()
    return Row(what, OK, "its stream is held up until then") if is_held_up else Row(what, FAIL, "its stream runs ahead")


def old_or_new(device: str) -> None:
    """Run on each of two ranks. Rank 0 prints which weights the teacher's forward used."""
    with joined_world() as (world, parallel):  # the ranks of the launcher
        run = TinyRun.build("text", "zero3_bf16", world, parallel)
        objective = run.objective

        def target() -> torch.Tensor:
            with torch.no_grad():
                return objective.forward(run.batch, objective.count(run.batch)).target_BSD.clone()

        for _ in range(3):  # the first forward records the order of gathers
            before = target()
        for _, parameter in shards.trained_parameters(objective.student):
            shards.master_shard(parameter).mul_(1.5)
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda._sleep(LONG_CYCLES)
        objective.restart()
        seen = target()
        if device == "cuda":
            torch.cuda.synchronize()
        right = target()
        assert not torch.equal(before, right), "the weights have not changed"
        if world.rank == 0:
            print(NEW if torch.equal(seen, right) else OLD, flush=True)


if __name__ == "__main__":
    old_or_new(sys.argv[1])
