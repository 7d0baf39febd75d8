"""A job that is asked to go, in each way in which Slurm can ask, saves, is requeued and ends where an undisturbed one does."""

from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.runs import ASK, SIGNAL, Run, Undisturbed

REASON = {"scontrol requeue": "SIGTERM"}


@pytest.mark.parametrize("way", ASK)
def test_a_job_that_is_asked_to_go_comes_back_and_ends_bit_for_bit_as_undisturbed(
    slurm: Cluster, prepared: dict[str, Path], undisturbed: Undisturbed, way: str
) -> None:
    run = Run(slurm, prepared["text"], slurm.folder / way.replace(" ", "_"))
    job = run.submit(SIGNAL)
    run.wait_for_step(60, job)
    ASK[way](slurm, job)
    assert slurm.wait(job, 240) == "COMPLETED", slurm.output(job)
    undisturbed.check(run)
    stops = run.events("stop")
    assert [stop["reason"] for stop in stops] == [REASON.get(way, "SIGUSR2"), "done"], slurm.output(job)
    assert run.events("resume")[0]["step"] == stops[0]["step"], "nothing was done twice"
    if way != "scontrol requeue":  # there Slurm does it itself
        assert f"stopped by SIGUSR2; checkpoint of step {stops[0]['step']}" in slurm.output(job)
        assert [row["action"] for row in run.attempts()] == ["requeue", "done"]


def test_a_job_that_is_cancelled_saves_and_stays_away(slurm: Cluster, prepared: dict[str, Path]) -> None:
    run = Run(slurm, prepared["text"], slurm.folder / "cancelled")
    job = run.submit()
    run.wait_for_step(30, job)
    slurm.run("scancel", job)
    assert slurm.wait(job) == "CANCELLED"
    slurm.wait_until(lambda: bool(run.events("stop")), 20, job)
    assert run.events("stop")[0]["reason"] == "SIGTERM" and run.events("save")[-1]["step"] == run.events("stop")[0]["step"]
    assert slurm.facts(job)["Restarts"] == "0"


def test_a_file_that_asks_for_an_end_is_not_answered_with_a_requeue_and_a_finished_run_says_so(
    slurm: Cluster, prepared: dict[str, Path]
) -> None:
    run = Run(slurm, prepared["text"], slurm.folder / "file")
    job = run.submit()
    run.wait_for_step(30, job)
    (run.path / "stop").touch()
    assert slurm.wait(job) == "FAILED" and slurm.facts(job)["ExitCode"] == "75:0", slurm.output(job)
    assert "not requeued, because the file stop asked for an end" in slurm.output(job)
    job = run.submit(run__max_steps=run.step)
    assert slurm.wait(job) == "COMPLETED", slurm.output(job)
    assert "is finished" in slurm.output(job)
