"""The rows of docs/slurm.md's table of signals on which launch/pretrain.sbatch is built."""

from tests.slurm.cluster import Cluster
from tests.slurm.signals import probe


def test_usr2_kills_a_launcher_but_not_one_that_was_told_to_ignore_it_and_reaches_the_ranks(slurm: Cluster) -> None:
    heard = probe(slurm, "launcher", "scancel", "USR2")
    assert heard["rank0"][:2] == heard["rank1"][:2] == ["SIGUSR2", "parent gone"], "then launch/pretrain.sbatch need not ignore it"
    slurm.clear()
    heard = probe(slurm, "launcher that ignores", "scancel", "USR2")
    assert heard == {"rank0": ["SIGUSR2", "end"], "rank1": ["SIGUSR2", "end"], "batch": []}


def test_srun_forwards_usr2_to_the_ranks_of_all_nodes(slurm: Cluster) -> None:
    assert probe(slurm, "launcher that ignores", "kill srun", "USR2") == {
        "rank0": ["SIGUSR2", "end"],
        "rank1": ["SIGUSR2", "end"],
        "batch": [],
    }


def test_a_launcher_that_ignores_term_waits_for_its_ranks(slurm: Cluster) -> None:
    heard = probe(slurm, "launcher that ignores", "scancel", "TERM")
    for rank in ("rank0", "rank1"):
        assert heard[rank][0] == "SIGTERM" and heard[rank][-1] == "end" and "parent gone" not in heard[rank], heard
