"""The rows of docs/slurm.md's table of signals on which launch/pretrain.sbatch relies."""

from tests.slurm.cluster import Cluster
from tests.slurm.signals import probe


def test_usr2_kills_a_launcher_except_one_that_ignores_it_and_reaches_the_ranks(slurm: Cluster) -> None:
    received = probe(slurm, "launcher", "scancel", "USR2")
    assert received["rank0"][:2] == received["rank1"][:2] == ["SIGUSR2", "parent gone"], "then launch/pretrain.sbatch need not ignore it"
    slurm.clear()
    received = probe(slurm, "launcher that ignores", "scancel", "USR2")
    assert received == {"rank0": ["SIGUSR2", "end"], "rank1": ["SIGUSR2", "end"], "batch": []}


def test_srun_forwards_usr2_to_the_ranks_of_all_nodes(slurm: Cluster) -> None:
    assert probe(slurm, "launcher that ignores", "kill srun", "USR2") == {
        "rank0": ["SIGUSR2", "end"],
        "rank1": ["SIGUSR2", "end"],
        "batch": [],
    }


def test_a_launcher_that_ignores_term_waits_for_its_ranks(slurm: Cluster) -> None:
    received = probe(slurm, "launcher that ignores", "scancel", "TERM")
    for rank in ("rank0", "rank1"):
        assert received[rank][0] == "SIGTERM" and received[rank][-1] == "end" and "parent gone" not in received[rank], received
