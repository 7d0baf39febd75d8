"""The ranks of one launch between the runs of several seeds. Each rank runs every seed in a new process; the ranks of these processes join
at a port that is agreed here."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from recipes.cluster.environment import LaunchedWorld
from recipes.cluster.rendezvous import Rendezvous, open_rendezvous
from recipes.cluster.slurm import node_name
from recipes.cluster.world import LONGEST_PREPARATION, RENDEZVOUS_SECONDS

AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
"""Set by torchrun: "True" if the ranks use its own store. That store keeps the values of earlier seeds."""


class JoinedRanks:
    """Ranks that exchange values through a store of the first one. Implements Together (seeds.py)."""

    def __init__(self, rendezvous: Rendezvous, is_one_node: bool) -> None:
        self._rendezvous, self._is_one_node = rendezvous, is_one_node

    def agree(self, number: int, is_done: bool) -> bool:
        """Return what the first rank has found. Raises: RankZeroUnreachable."""
        return bool(self._rendezvous.broadcast(f"done/{number}", is_done))

    def begin(self, number: int, is_stopped: bool) -> Mapping[str, str] | None:
        """Agree on a port. Return the variables of this rank's process, or None if any rank was asked to stop. Raises:
        RankZeroUnreachable."""
        rendezvous = self._rendezvous
        asked = rendezvous.collect(f"stop/{number}", is_stopped, list(range(rendezvous.size)))
        env = rendezvous.broadcast(f"begin/{number}", None if rendezvous.rank else self._address(any(asked.values())))
        return env or None

    def end(self, number: int, code: int) -> int:
        """Return this rank's exit code if it is not 0, else that of the first rank, which scores the run after the others have left.
        Raises: RankZeroUnreachable."""
        rendezvous = self._rendezvous
        if code and rendezvous.rank:
            return code
        longest = LONGEST_PREPARATION.total_seconds()
        return rendezvous.broadcast(f"end/{number}", code, more_seconds=longest)

    def _address(self, is_stopped: bool) -> Mapping[str, str]:
        if is_stopped:
            return {}
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        by_torchrun = os.environ.get(AGENT_STORE) == "True"  # then MASTER_ADDR need not be the first rank's node
        own = "127.0.0.1" if self._is_one_node else node_name()
        return {"MASTER_ADDR": own if by_torchrun else os.environ["MASTER_ADDR"], "MASTER_PORT": str(port), AGENT_STORE: "False"}


@contextmanager
def joined_ranks(world: LaunchedWorld) -> Iterator[JoinedRanks]:
    """Join the ranks of the launch for the block. Raises: ConfigError if they cannot be joined."""
    rendezvous = open_rendezvous(world.rank, world.size, RENDEZVOUS_SECONDS, name="seeds")
    yield JoinedRanks(rendezvous, world.local_size == world.size)
    rendezvous.leave(list(range(world.size)))
