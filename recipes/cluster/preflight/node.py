"""What one node does in the preflight: what it measures before and after all nodes have joined. If a measurement fails, the reason goes
into the node's report; neither the process nor the measuring of the other nodes ends."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from recipes.cluster.preflight import bandwidth, device_checks, measure
from recipes.cluster.preflight.node_report import ALL_REDUCE, RUN_DIR, Device, NodeReport
from recipes.cluster.rendezvous import Rendezvous
from recipes.cluster.slurm import node_name

Result = TypeVar("Result")
LONGEST_REASON = 200
APPEARS_SECONDS = 2.0
"""How long a network file system may take to show a file of another node, whose name this node has not looked up before."""


class Node:
    """The measurements that this process makes for its node: prepare(), measure(), check_device() if requested, clean()."""

    def __init__(self, rendezvous: Rendezvous, run_dir: Path, local_rank: int, local_size: int) -> None:
        """Measure nothing yet. `local_size`: number of processes on this node, which share its cores and devices."""
        self.errors: dict[str, str] = {}
        self._rendezvous, self._run_dir = rendezvous, run_dir
        self._local_rank, self._local_size = local_rank, local_size
        self._num_cores = len(os.sched_getaffinity(0))
        self._indices: list[int] = []
        self._devices: list[Device] = []
        self._versions: dict[str, str] = {}
        self._free_bytes: dict[str, int] = {}
        self._stale_locks: list[str] = []
        self._folder: Path | None = None
        self._nonce = ""

    def prepare(self, nonce: str) -> None:
        """Measure what needs no other node, and write a file into the run dir. `nonce` is a part of its name. Nodes that see each
        other's files share the run dir."""
        self._nonce = nonce
        self._folder = self._attempt(RUN_DIR, lambda: measure.existing_folder(self._run_dir))
        if self._folder:
            self._attempt(RUN_DIR, self._path(self._rendezvous.rank).touch)
        self._indices = self._attempt("devices", lambda: measure.own_devices(self._local_rank, self._local_size)) or []
        self._devices = self._attempt("devices", lambda: measure.idle_devices(self._indices)) or []
        self._versions = self._attempt("versions", measure.versions) or {}
        self._free_bytes = self._attempt("free memory and disks", lambda: measure.free_bytes(self._folder)) or {}
        self._stale_locks = self._attempt("locks of builds", lambda: measure.stale_locks(time.time())) or []

    def measure(self, present: list[int]) -> NodeReport:
        """Measure the rest and return this node's report. All ranks in `present` do it at the same time: nodes that share a power
        supply, a host or a file server then slow each other down, as they will in training."""
        seconds_ahead = self._rendezvous.seconds_ahead(present)
        num_threads = max(1, self._num_cores // self._local_size)
        rates = self._attempt("matmul", lambda: measure.matmul_tflops(self._indices, num_threads)) or []
        return NodeReport(
            host=node_name(),
            versions=self._versions,
            num_cores=self._num_cores,
            devices=[replace(device, tflops=rate) for device, rate in zip(self._devices, rates, strict=False)] or self._devices,
            free_bytes=self._free_bytes,
            disk_seconds=self._disk_seconds(),
            seconds_ahead=seconds_ahead,
            sees_first=self.sees_file_of(0, time.monotonic() + APPEARS_SECONDS),
            gb_per_second=self._bandwidth(present),
            stale_locks=self._stale_locks,
            errors=self.errors,
        )

    def check_device(self) -> dict[str, Any]:
        """Run the short checks of training on this node's device, in its first process only, and return `summary` and `failures`. Call
        it after measure(), since the checks take longer on some nodes than on others."""
        if self._local_rank:
            return {"summary": "", "failures": {}}
        return self._attempt(device_checks.ALL, lambda: device_checks.run(bool(self._indices))) or {
            "summary": "",
            "failures": {device_checks.ALL: self.errors[device_checks.ALL]},
        }

    def sees_file_of(self, rank: int, deadline: float) -> bool:
        """True if the file that rank `rank` wrote into the run dir is visible here before `deadline` (time.monotonic()); False if this
        node cannot use the run dir."""
        if self._folder is None or RUN_DIR in self.errors:
            return False
        return bool(self._attempt(RUN_DIR, lambda: measure.has_appeared(self._path(rank), deadline)))

    def clean(self) -> None:
        """Remove the file that prepare() has written into the run dir, if any."""
        if self._folder:
            with suppress(OSError):
                self._path(self._rendezvous.rank).unlink()

    def _disk_seconds(self) -> float | None:
        folder = self._folder
        if folder is None or RUN_DIR in self.errors:
            return None
        return self._attempt(RUN_DIR, lambda: measure.disk_seconds(folder, f"{self._path(self._rendezvous.rank).name}_disk"))

    def _bandwidth(self, present: list[int]) -> dict[str, float]:
        rendezvous = self._rendezvous
        if not 1 < len(present) == rendezvous.size:
            return {}
        index = self._indices[0] if self._indices else None
        job = partial(bandwidth.bandwidth, rendezvous.store, rendezvous.rank, rendezvous.size, index, rendezvous.timeout)
        return self._attempt(ALL_REDUCE, job) or {}

    def _path(self, rank: int) -> Path:
        assert self._folder, "no folder to look in"
        return self._folder / f".preflight_{self._nonce}_{rank}"

    def _attempt(self, measurement: str, job: Callable[[], Result]) -> Result | None:
        # put beforehand, so that rank 0 can name the measurement in which a node hangs
        self._rendezvous.put(f"doing/{self._rendezvous.rank}", {"host": node_name(), "measurement": measurement})
        try:
            return job()
        except (OSError, RuntimeError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            self.errors.setdefault(measurement, reason.splitlines()[0][:LONGEST_REASON])
            return None
