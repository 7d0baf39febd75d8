"""How many files a rank may have open (`ulimit -n`): checked against the number of ranks before anything connects. Torch-free.

gloo connects two ranks only when a collective needs it (recipes/cluster/world.py), so the connections of a rank grow with the logarithm
of the number of ranks. Rank 0 also holds the store of the rendezvous: one connection per rank.
"""

import resource

from recipes.cluster.slurm import node_name
from recipes.errors import LocalError

RESERVE = 256
"""Files of a rank beside the connections of the store: libraries, pipes to data workers, groups. benchmarks/open_files.py counts them."""


def require_open_files(num_ranks: int) -> None:
    """Raise this process's soft limit on open files to what a rank among `num_ranks` needs, if it is lower. All ranks need the same
    number, so that under equal limits all of them refuse.

    Raises: LocalError if the hard limit is lower than that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = num_ranks + RESERVE
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise LocalError(
            f"{num_ranks} ranks need {needed} open files in a process, and {node_name()} allows {hard} (ulimit -Hn); raise the limit in "
            "/etc/security/limits.conf, in Slurm's PropagateResourceLimits, or with docker run --ulimit nofile="
            f"{needed}, or start fewer ranks"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
