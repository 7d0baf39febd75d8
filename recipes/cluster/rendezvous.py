"""Rendezvous of the ranks through a key-value store on rank 0. Every wait has a time limit, so a rank that has died does not block the
others: rank 0 continues without its value. What the values mean is decided by the callers."""

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
    """This process cannot reach rank 0, so it prints the error itself and ends."""


class Rendezvous:
    """Exchange of small values between the ranks, through a key-value store that rank 0 holds. Rank 0 collects the others' values and
    broadcasts its own."""

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: float) -> None:
        """Exchange values as `rank` of `size` ranks. `timeout`: seconds that rank 0 waits for the values of all ranks."""
        self.store, self.rank, self.size, self.timeout = store, rank, size, timeout

    def put(self, key: str, value: Any) -> None:
        """Write a value, which JSON can represent, under `key`. Raises: RankZeroUnreachable."""
        try:
            self.store.set(key, json.dumps(value))
        except RuntimeError as error:
            raise self._unreachable(error) from None

    def get(self, key: str, seconds: float) -> Any:
        """Wait for the value of `key` and return it; None if no rank has put it within `seconds`. The interval between polls grows,
        since a thousand nodes may poll.

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
            raise self._unreachable(error) from None

    def collect(self, stage: str, value: Any, among: list[int], seconds: float | None = None) -> dict[int, Any]:
        """Bring the ranks' values to rank 0. There, return rank -> value of all ranks in the list `among` whose value (not None) came in
        time. On any other rank, put `value` and return {}. `stage` names this exchange.

        `seconds`: time limit for all of them together, by default the timeout. Raises: RankZeroUnreachable.
        """
        if self.rank:
            self.put(f"{stage}/{self.rank}", value)
            return {}
        deadline = time.monotonic() + (self.timeout if seconds is None else seconds)
        values = {rank: self.get(f"{stage}/{rank}", deadline - time.monotonic()) if rank else value for rank in among}
        return {rank: received for rank, received in values.items() if received is not None}

    def broadcast(self, key: str, value: Any = None, *, more_seconds: float = 0.0) -> Any:
        """Return on every rank the value that rank 0 passes. `more_seconds`: how much longer than usual rank 0 may need before it calls
        this.

        Raises: RankZeroUnreachable if rank 0 does not put the value in time.
        """
        if self.rank == 0:
            self.put(key, value)
            return value
        limit = 2 * self.timeout + 30 + more_seconds  # rank 0 may collect from the others twice before it puts the value
        received = self.get(key, limit)
        if received is None:
            raise RankZeroUnreachable(f"rank 0 at {_shown_address()} has sent nothing for {limit:g} s; see its log")
        return received

    def seconds_ahead(self, among: list[int]) -> float:
        """Return by how many seconds this node's clock is ahead of rank 0's; negative if it is behind. The difference is reduced by the
        uncertainty of the round trip, to 0 if it is smaller than that. 0 on rank 0. Every rank in the list `among` must call this
        function."""
        if self.rank == 0:
            for rank in among:
                if rank and self.get(f"clock_request/{rank}", CLOCK_WAIT_SECONDS) is not None:
                    self.put(f"clock_answer/{rank}", time.time())
            return 0.0
        sent = time.time()
        self.put(f"clock_request/{self.rank}", True)
        answer = self.get(f"clock_answer/{self.rank}", self.timeout + CLOCK_WAIT_SECONDS * self.size)
        received = time.time()
        ahead, uncertainty = (sent + received) / 2 - (answer or received), (received - sent) / 2
        return max(ahead - uncertainty, 0.0) + min(ahead + uncertainty, 0.0)

    def leave(self, among: list[int]) -> None:
        """End this rank's use of the store; no other call may follow. The store ends with rank 0's process, so rank 0 waits at most 5 s
        (LEAVING_SECONDS) for the ranks in the list `among`."""
        self.collect("left", True, among, LEAVING_SECONDS)

    def _unreachable(self, error: RuntimeError) -> RankZeroUnreachable:
        return RankZeroUnreachable(
            f"the connection to rank 0 at {_shown_address()} is lost ({str(error).splitlines()[0][:100]}); see its log"
        )


def open_rendezvous(rank: int, size: int, timeout: float, name: str = "preflight") -> Rendezvous:
    """Start the key-value store on rank 0, or connect to it, within `timeout` seconds. `name` separates several rendezvous at one port.

    Raises: ConfigError if the port cannot be opened or no address is set; RankZeroUnreachable if rank 0 cannot be reached.
    """
    if size == 1:
        return Rendezvous(dist.HashStore(), rank, size, timeout)
    address, port = _address()
    # torchrun sets these: the store exists already, and how many times torchrun has restarted the ranks with that store
    has_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    prefix = f"{name}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    limit = datetime.timedelta(seconds=timeout)
    is_first = rank == 0 and not has_store
    if not is_first:
        _wait_for_port(address, port, timeout)
    try:
        # rank 0 uses 127.0.0.1, because its own host name may not resolve to this machine
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
            f"MASTER_ADDR={os.environ.get('MASTER_ADDR')} MASTER_PORT={port}: several processes need the address of rank 0; set both"
        ) from None


def _wait_for_port(address: str, port: int, timeout: float) -> None:
    """Wait until a process listens at the port. torch's store would retry by itself, but it writes pages to stderr.
    Raises: RankZeroUnreachable after `timeout` seconds."""
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
