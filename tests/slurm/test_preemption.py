"""A job with a stop request, in each of Slurm's ways, saves, is requeued, and ends with the result of an undisturbed job."""

from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.runs import ASK, SIGNAL, Run, Undisturbed

REASON = {"scontrol requeue": "SIGTERM"}


@pytest.mark.parametrize("way", ASK)
def test_a_job_with_a_stop_request_is_requeued_and_ends_bit_for_bit_as_undisturbed(
    slurm: Cluster, prepared: dict[str, Path], undisturbed: Undisturbed, way: str
) -> None:
    run = Run(slurm, prepared["text"], slurm.folder / way.replace(" ", "_"))
    job = run.submit(SIGNAL)
    run.wait_for_step(60, job)
    ASK[way](slurm, job)
    assert slurm.wait(job, 240) == "COMPLETED"
    undisturbed.check(run)
    stops = run.events("stop")
    assert [stop["reason"] for stop in stops] == [REASON.get(way, "SIGUSR2"), "done"]
    assert run.events("resume")[0]["step"] == stops[0]["step"], "nothing was done twice"
    if way != "scontrol requeue":  # there Slurm does it itself
        assert f"stopped by SIGUSR2; checkpoint of step {stops[0]['step']}" in slurm.output(job)
        assert [row["action"] for row in run.attempts()] == ["requeue", "done"]


def test_a_cancelled_job_saves_and_is_not_requeued(slurm: Cluster, prepared: dict[str, Path]) -> None:
    run = Run(slurm, prepared["text"], slurm.folder / "cancelled")
    job = run.submit()
    run.wait_for_step(30, job)
    slurm.run("scancel", job)
    assert slurm.wait(job) == "CANCELLED"
    slurm.wait_until(lambda: bool(run.events("stop")), 20, job)
    assert run.events("stop")[0]["reason"] == "SIGTERM" and run.events("save")[-1]["step"] == run.events("stop")[0]["step"]
    assert slurm.facts(job)["Restarts"] == "0"


def test_a_stop_file_causes_no_requeue_and_a_finished_run_is_reported(slurm: Cluster, prepared: dict[str, Path]) -> None:
    run = Run(slurm, prepared["text"], slurm.folder / "file")
    job = run.submit()
    run.wait_for_step(30, job)
    (run.path / "stop").touch()
    assert slurm.wait(job) == "FAILED" and slurm.facts(job)["ExitCode"] == "75:0"
    assert "not requeued, because the file stop asked for an end" in slurm.output(job)
    job = run.submit(run__max_steps=run.step)
    assert slurm.wait(job) == "COMPLETED"
    assert "is finished" in slurm.output(job)
