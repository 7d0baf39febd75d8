"""The report of one node, which is sent to rank 0 as JSON. Measured in measure.py, compared in compare.py. Torch-free."""

import json
from dataclasses import asdict, dataclass
from typing import Any

RUN_DIR, TEMPORARY, SHARED_MEMORY, MEMORY = "run dir", "temporary folder", "/dev/shm", "memory"
"""Keys of `NodeReport.free_bytes`."""
ALL_REDUCE, EXCHANGE = "all-reduce", "exchange"
"""Keys of `NodeReport.gb_per_second`."""


@dataclass(frozen=True)
class Device:
    """One CUDA device, or all CPU cores of the process as one device: name, speed in bf16 (CPU: fp32) and free memory. None: not
    measured."""

    name: str
    tflops: float | None
    free_fraction: float | None
    """Free part of a CUDA device's memory, before this process used any."""


@dataclass(frozen=True)
class NodeReport:
    """What one node measured about itself. None or a missing key: not measured; if a measurement failed, `errors` has the reason."""

    host: str
    versions: dict[str, str]
    num_cores: int
    """Cores that this process may use."""
    devices: list[Device]
    free_bytes: dict[str, int]
    disk_seconds: float | None
    """Seconds to save 1 MiB in the run dir (write, sync, rename, sync the folder), the best of three."""
    seconds_ahead: float
    """Seconds by which this node's clock is ahead of rank 0's, reduced by the uncertainty of the round trip; negative if behind."""
    sees_first: bool
    """True if this node sees the file that rank 0 wrote into the run dir."""
    gb_per_second: dict[str, float]
    stale_locks: list[str]
    errors: dict[str, str]
    """Measurement that failed -> reason."""

    @property
    def tflops(self) -> float | None:
        """Speed of the node's slowest device in TFLOP/s, since the others wait for it; None if none was measured."""
        return min((device.tflops for device in self.devices if device.tflops is not None), default=None)

    def to_json(self) -> str:
        """Return the report as JSON text, which is sent to rank 0."""
        return json.dumps(asdict(self))

    @staticmethod
    def of(text: str) -> "NodeReport":
        """Make a report from the JSON text that to_json() returned."""
        content: dict[str, Any] = json.loads(text)
        return NodeReport(**{**content, "devices": [Device(**device) for device in content["devices"]]})
