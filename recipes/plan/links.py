"""How long collectives take on a described cluster, and what an update waits for. Torch-free arithmetic.

A collective moves its bytes at the bandwidth of the slowest link that it crosses, after a latency per hop. Latencies and rates are those of
the description; nothing here is measured.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple

from recipes.errors import ConfigError


class Collective(NamedTuple):
    """One collective: its kind, the bytes of the whole tensor (an all-gather's result, a reduce-scatter's input), and its ranks."""

    kind: str
    num_bytes: float
    num_ranks: int


SENT_PER_BYTE = {"all_gather": 1.0, "reduce_scatter": 1.0, "broadcast": 1.0, "all_reduce": 2.0}
"""Kind of a collective -> bytes that each rank sends for each byte of the tensor, on many ranks (ring algorithm, as NCCL counts its bus
bandwidth)."""


@dataclass(frozen=True)
class Cluster:
    """Links and devices of a cluster. The defaults are an H100 node with NVLink and one 400 Gbit/s port per GPU; rates are what programs
    usually reach, not what data sheets promise."""

    ranks_per_node: int = 8
    node_gigabytes_per_second: float = 300.0
    """Bandwidth of a rank to others of its node, in one direction."""
    network_gigabytes_per_second: float = 40.0
    """Bandwidth of a rank to other nodes, in one direction."""
    node_microseconds: float = 3.0
    """Latency of a hop inside a node."""
    network_microseconds: float = 15.0
    """Latency of a hop between nodes."""
    device_teraflops: float = 400.0
    """Rate at which a device computes the model, in 10^12 FLOP/s."""

    @staticmethod
    def of_text(text: str) -> "Cluster":
        """Return the cluster that a JSON object describes; fields that it leaves out keep their defaults. Raises: ConfigError."""
        known = {field.name: field.type for field in fields(Cluster)}
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f'--cluster: broken JSON ({error.msg}); write an object such as {{"ranks_per_node": 8}}') from None
        unknown = [name for name in content if name not in known] if isinstance(content, dict) else [text]
        if unknown:
            raise ConfigError(f"--cluster: {unknown[0]} describes no cluster; known are {', '.join(known)}")
        wrong = [name for name, value in content.items() if type(value) not in (int, float) or not 0 < value < math.inf]
        if wrong:
            raise ConfigError(f"--cluster: {wrong[0]} is {content[wrong[0]]}, must be a number above 0")
        return Cluster(**content)

    def seconds(self, collective: Collective) -> float:
        """Return how long a collective takes. Its latency grows with the logarithm of the nodes, as in tree and hierarchical algorithms."""
        kind, num_bytes, size = collective
        if size <= 1:
            return 0.0
        nodes = -(-size // self.ranks_per_node)
        bandwidth = self.node_gigabytes_per_second if nodes == 1 else self.network_gigabytes_per_second
        hops = math.ceil(math.log2(min(size, self.ranks_per_node))) * self.node_microseconds
        hops += math.ceil(math.log2(nodes)) * self.network_microseconds
        return SENT_PER_BYTE[kind] * num_bytes * (size - 1) / size / (1e9 * bandwidth) + 1e-6 * hops


class StepEstimate(NamedTuple):
    """Seconds of an update on a described cluster, by what works at the same time: the host's Python, the device, the links."""

    host: float
    device: float
    communication: float

    @property
    def step(self) -> float:
        """The longest of them, if they overlap completely: a lower bound."""
        return max(self)

    @property
    def binds(self) -> str:
        """The name of the longest."""
        return max(self._fields, key=lambda name: getattr(self, name))


def estimate(cluster: Cluster, host_seconds: float, flops: float, collectives: Iterable[Collective]) -> StepEstimate:
    """Return the estimate of an update. `flops`: of one rank. `collectives`: all of the update, in which one rank takes part."""
    return StepEstimate(host_seconds, flops / (1e12 * cluster.device_teraflops), sum(map(cluster.seconds, collectives)))
