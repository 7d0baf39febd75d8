"""What one node says of itself, as it travels from node to node. Torch-free; measured in measure.py, judged in compare.py."""

import json
from dataclasses import asdict, dataclass
from typing import Any

RUN_DIR, TEMPORARY, SHARED_MEMORY, MEMORY = "run dir", "temporary folder", "/dev/shm", "memory"
"""What `Facts.free_bytes` tells of."""
ALL_REDUCE, EXCHANGE = "all-reduce", "exchange"
"""What `Facts.gb_per_second` tells of."""


@dataclass(frozen=True)
class Device:
    """What computes: a CUDA device, or the cores of the process. None: not measured."""

    name: str
    tflops: float | None
    free_fraction: float | None
    """Of a CUDA device's memory, before this process used any."""


@dataclass(frozen=True)
class Facts:
    """One node. None, and keys that are missing: not measured; why is in `errors`."""

    host: str
    versions: dict[str, str]
    num_cores: int
    """That this process may use."""
    devices: list[Device]
    free_bytes: dict[str, int]
    disk_seconds: float | None
    """For 1 MiB in the run dir written, synced, renamed, the folder synced: the best of three."""
    seconds_ahead: float
    """Of rank 0's clock, as far as the time that the question took leaves no doubt."""
    sees_first: bool
    """Whether the file is here that rank 0 wrote into the run dir."""
    gb_per_second: dict[str, float]
    stale_locks: list[str]
    errors: dict[str, str]
    """What could not be measured -> why."""

    @property
    def tflops(self) -> float | None:
        """Of the slowest device: it is the one that the others wait for."""
        return min((device.tflops for device in self.devices if device.tflops is not None), default=None)

    def to_json(self) -> str:
        """For the other nodes."""
        return json.dumps(asdict(self))

    @staticmethod
    def of(text: str) -> "Facts":
        """The opposite of to_json."""
        content: dict[str, Any] = json.loads(text)
        return Facts(**{**content, "devices": [Device(**device) for device in content["devices"]]})
