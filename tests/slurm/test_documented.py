"""README's command for many nodes runs as it stands, with a tiny model on made-up data."""

import shlex
from pathlib import Path

import pytest

from tests.documented import readme_commands
from tests.launching import overrides
from tests.slurm.cluster import Cluster

COMMANDS = [one for one in readme_commands() if one.startswith("sbatch")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(command: str, slurm: Cluster, prepared: dict[str, Path]) -> None:
    words = [word for word in shlex.split(command)[1:] if not word.startswith("--nodes")]
    run_dir = slurm.folder / "documented"
    job = slurm.submit("--nodes=2", *words, "--data", prepared["text"], "--run-dir", run_dir, *overrides())
    assert slurm.wait(job) == "COMPLETED"
    assert "done: checkpoint of step 2" in slurm.output(job) and (run_dir / "checkpoints" / "step_00000002").is_dir()


def test_there_is_one() -> None:
    assert len(COMMANDS) == 1
