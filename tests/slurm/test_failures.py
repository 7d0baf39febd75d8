"""A process dies or hangs on a node: all ranks end soon, one line names node and reason, and the job is requeued or held."""

import re
import time
from pathlib import Path

from recipes.watch.heartbeat import PHASES
from tests.slurm.cluster import Cluster
from tests.slurm.runs import RANK, Run, Undisturbed, the_rank

PLACE = rf"at step \d+, ({'|'.join(PHASES)})"
"""Matches the place of a rank in the line on how it ended. A kill at a random moment may hit any phase; some have two words."""


def test_a_killed_rank_is_named_and_the_job_is_requeued(slurm: Cluster, prepared: dict[str, Path], undisturbed: Undisturbed) -> None:
    run = Run(slurm, prepared["text"], slurm.folder / "killed")
    job = run.submit()
    run.wait_for_step(60, job)
    slurm.on_node("node2", "kill", "-KILL", the_rank(slurm, "node2"))
    slurm.wait_until(lambda: "requeued" in slurm.output(job), 60, job)
    assert re.search(rf"attempt 1: rank 1 on node2 died without an exit code .* {PLACE}; checkpoint of step", slurm.output(job))
    assert slurm.wait(job, 240) == "COMPLETED"
    undisturbed.check(run)


def test_a_stopped_rank_is_named_with_its_stack_and_the_job_is_requeued(
    slurm: Cluster, prepared: dict[str, Path], undisturbed: Undisturbed
) -> None:
    run = Run(slurm, prepared["text"], slurm.folder / "stopped")
    job = run.submit(run__hang_seconds=5)
    run.wait_for_step(60, job)
    begin = time.monotonic()
    slurm.on_node("node2", "kill", "-STOP", the_rank(slurm, "node2"))
    slurm.wait_until(lambda: "requeued" in slurm.output(job), 5 + 30, job)
    print(f"{time.monotonic() - begin:.1f} s from SIGSTOP to the requeue, run.hang_seconds=5")
    assert re.search(rf"attempt 1: rank 1 on node2 hung \(stopped.*\) {PLACE}; checkpoint of step", slurm.output(job))
    hang = run.events("hang")
    assert [(one["rank"], one["host"]) for one in hang[0]["behind"]] == [(1, "node2")]
    assert slurm.wait(job, 240) == "COMPLETED"
    undisturbed.check(run)


def test_a_node_that_loses_power_costs_the_steps_since_the_last_checkpoint(
    slurm: Cluster, prepared: dict[str, Path], undisturbed: Undisturbed
) -> None:
    run = Run(slurm, prepared["text"], slurm.folder / "power")
    job = run.submit()
    run.wait_for_step(60, job)
    slurm.power_off("node2")
    slurm.wait_until(lambda: slurm.facts(job).get("Restarts") == "1", 90, job)
    slurm.power_on("node2")
    assert slurm.wait(job, 240) == "COMPLETED"
    assert run.events("resume")[0]["step"] in (50, 75)
    # printed by the batch script, or by that of the next attempt if Slurm has ended this one; a watcher that died last has left a record
    assert re.search(r"attempt 1.*: rank 1 on node2 (exited without a record|died without an exit code)", slurm.output(job))
    undisturbed.check(run)


def test_a_crash_at_step_0_is_tried_max_tries_times_and_then_held(slurm: Cluster, prepared: dict[str, Path]) -> None:
    run = Run(slurm, prepared["text"], slurm.folder / "loop")
    job = run.submit(env={"MAX_TRIES": "2"}, run__save_steps=100_000, run__max_steps=100_000, optim__schedule_steps=100_000)
    for attempt in (1, 2):
        slurm.wait_until(lambda number=attempt: len(run.events("start")) == number, 90, job)  # type: ignore[misc]
        slurm.on_node("node2", "kill", "-KILL", the_rank(slurm, "node2"))
    assert slurm.wait(job) == "PENDING"
    said = slurm.output(job)
    assert "try 1 of 2 without a new checkpoint" in said and "held after 2 tries without a new checkpoint" in said
    facts = slurm.facts(job)
    assert "rank 1 on node2 died without an exit code" in facts["Comment"] and f"scontrol release {job}" in said
    assert not slurm.processes(RANK)
