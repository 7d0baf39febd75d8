"""Where the nodes meet: a store on rank 0 through which they wait for each other, with a bound on every wait. Knows nothing of what
they say. One that has died keeps nobody: rank 0 goes on without it and names it."""

import datetime
import json
import os
import socket
import time
from typing import Any

import torch.distributed as dist

from recipes.cluster.slurm import node_name
from recipes.errors import ConfigError, LocalError

SHORTEST_PAUSE, LONGEST_PAUSE = 0.002, 0.05
LEAVING_SECONDS = 5.0
CLOCK_WAIT_SECONDS = 5.0


class RankZeroUnreachable(LocalError):
    """Rank 0 cannot be reached, so this process must say so itself."""


class Rendezvous:
    """This process among those of the store. Rank 0 collects and announces, the others tell and hear."""

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: float) -> None:
        """`timeout`: seconds that rank 0 waits for what all should say."""
        self.store, self.rank, self.size, self.timeout = store, rank, size, timeout

    def put(self, key: str, value: Any) -> None:
        """Raises: RankZeroUnreachable."""
        try:
            self.store.set(key, json.dumps(value))
        except RuntimeError as error:
            raise self._lost(error) from None

    def get(self, key: str, seconds: float) -> Any:
        """The value of `key`, None if there is none in time. Polls less and less often, since a thousand nodes may ask.

        Raises: RankZeroUnreachable.
        """
        deadline, pause = time.monotonic() + seconds, SHORTEST_PAUSE
        try:
            while not self.store.check([key]):
                if time.monotonic() > deadline:
                    return None
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            return json.loads(self.store.get(key))
        except RuntimeError as error:
            raise self._lost(error) from None

    def collect(self, stage: str, value: Any, among: list[int], seconds: float | None = None) -> dict[int, Any]:
        """What each of `among` said within the time, by rank; only rank 0 is told. Raises: RankZeroUnreachable."""
        if self.rank:
            self.put(f"{stage}/{self.rank}", value)
            return {}
        deadline = time.monotonic() + (self.timeout if seconds is None else seconds)
        heard = {rank: self.get(f"{stage}/{rank}", deadline - time.monotonic()) if rank else value for rank in among}
        return {rank: said for rank, said in heard.items() if said is not None}

    def from_first(self, key: str, value: Any = None, *, more_seconds: float = 0.0) -> Any:
        """Rank 0's value, on all. `more_seconds`: what it may wait for others beyond the timeout before it speaks.

        Raises: RankZeroUnreachable where it does not say it.
        """
        if self.rank == 0:
            self.put(key, value)
            return value
        patience = 2 * self.timeout + 30 + more_seconds  # rank 0 may wait for two others before it speaks
        heard = self.get(key, patience)
        if heard is None:
            raise RankZeroUnreachable(f"rank 0 at {_shown_address()} has said nothing for {patience:g} s; see its log")
        return heard

    def seconds_ahead(self, among: list[int]) -> float:
        """How far this clock is ahead of rank 0's, 0 as far as the round trip leaves a doubt. All of `among` call it."""
        if self.rank == 0:
            for rank in among:
                if rank and self.get(f"ask/{rank}", CLOCK_WAIT_SECONDS) is not None:
                    self.put(f"answer/{rank}", time.time())
            return 0.0
        asked = time.time()
        self.put(f"ask/{self.rank}", True)
        answer = self.get(f"answer/{self.rank}", self.timeout + CLOCK_WAIT_SECONDS * self.size)
        heard = time.time()
        ahead, doubt = (asked + heard) / 2 - (answer or heard), (heard - asked) / 2
        return max(ahead - doubt, 0.0) + min(ahead + doubt, 0.0)

    def leave(self, among: list[int]) -> None:
        """The last call: rank 0, whose store ends with it, lets `among` hear everything before."""
        self.collect("left", True, among, LEAVING_SECONDS)

    def _lost(self, error: RuntimeError) -> RankZeroUnreachable:
        return RankZeroUnreachable(f"rank 0 at {_shown_address()} has gone ({str(error).splitlines()[0][:100]}); see its log")


def open_rendezvous(rank: int, size: int, timeout: float, name: str = "preflight") -> Rendezvous:
    """Open the store on rank 0, or reach it, within `timeout` seconds. `name` keeps several rendezvous at one port apart.

    Raises: ConfigError where the port is taken; RankZeroUnreachable where rank 0 cannot be reached.
    """
    if size == 1:
        return Rendezvous(dist.HashStore(), rank, size, timeout)
    address, port = _address()
    # torchrun's word for "the store is already there", and how many times it has begun anew in it
    has_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    prefix = f"{name}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    limit = datetime.timedelta(seconds=timeout)
    is_first = rank == 0 and not has_store
    if not is_first:
        _reach(address, port, timeout)
    try:
        # by its own name rank 0 might not find itself
        store = dist.TCPStore("127.0.0.1" if is_first else address, port, is_master=is_first, wait_for_workers=False, timeout=limit)
    except RuntimeError as error:
        if is_first:
            raise ConfigError(
                f"port {port} (MASTER_PORT) on {node_name()} cannot be opened: {_port_reason(error)}; set another MASTER_PORT"
            ) from None
        raise RankZeroUnreachable(f"what listens on {address}:{port} is not rank 0's store; set another MASTER_PORT") from None
    return Rendezvous(dist.PrefixStore(prefix, store), rank, size, timeout)


def _address() -> tuple[str, int]:
    try:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError):
        port = os.environ.get("MASTER_PORT")
        raise ConfigError(
            f"MASTER_ADDR={os.environ.get('MASTER_ADDR')} MASTER_PORT={port}: several processes must know where rank 0 is; set both"
        ) from None


def _reach(address: str, port: int, timeout: float) -> None:
    """Wait until somebody listens: the store's own attempts write pages to stderr."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((address, port), timeout=max(0.1, deadline - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() + LONGEST_PAUSE > deadline:
                reason = error.strerror or str(error)
                raise RankZeroUnreachable(
                    f"{node_name()} cannot reach rank 0 at {address}:{port} within {timeout:g} s ({reason}); see its log and MASTER_ADDR"
                ) from None
            time.sleep(LONGEST_PAUSE)


def _port_reason(error: RuntimeError) -> str:
    return "it is in use" if "EADDRINUSE" in str(error) else str(error).splitlines()[0][:100]


def _shown_address() -> str:
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
