"""How long collectives take on a described cluster, and what an update waits for. Torch-free arithmetic.

A collective moves its bytes at the bandwidth of the slowest link that it crosses, after a latency per hop. Rates and latencies are those of
the cluster's devices (recipes/plan/devices.py), which have the sources; nothing is measured here.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from recipes.errors import ConfigError
from recipes.plan.devices import DEVICE_EXAMPLE, H100, NUMBERS, DeviceSpec, described_device, named_device, positive_integer
from recipes.suggestions import did_you_mean

KEYS = ("nodes", "gpus", "device", "peak_teraflops", *NUMBERS)
"""Keys of --cluster."""
ELSEWHERE = {
    "nodes": ("num_nodes", "nnodes"),
    "gpus": ("ranks_per_node", "gpus_per_node", "num_gpus", "nproc_per_node"),
    "memory_gib": ("memory", "memory_gb", "vram"),
    "peak_teraflops and efficiency": ("device_teraflops", "device_tflops", "tflops"),
}
"""Key of --cluster -> other names for it."""
EXAMPLE = "nodes=4,gpus=8,device=h100"
OBJECT = '{"nodes": 4, "gpus": 8, "device": "h100"}'


class Collective(NamedTuple):
    """One collective: its kind, the bytes of the whole tensor (an all-gather's result, a reduce-scatter's input), and its ranks."""

    kind: str
    num_bytes: float
    num_ranks: int
    stride: int = 1
    """Distance from one of its ranks to the next, in ranks of the run."""


SENT_PER_BYTE = {"all_gather": 1.0, "reduce_scatter": 1.0, "broadcast": 1.0, "all_reduce": 2.0}
"""Kind of a collective -> bytes that each rank sends for each byte of the tensor, on many ranks (ring algorithm, as NCCL counts its bus
bandwidth)."""


@dataclass(frozen=True)
class Cluster:
    """Nodes of equal devices, and one rank for each device."""

    nodes: int = 1
    gpus: int = 8
    """Devices of a node."""
    device: DeviceSpec = H100

    def __post_init__(self) -> None:
        positive_integer("nodes", self.nodes)
        positive_integer("gpus", self.gpus)

    @property
    def num_ranks(self) -> int:
        """Ranks of a run on the whole cluster."""
        return self.nodes * self.gpus

    @staticmethod
    def of_text(text: str) -> "Cluster":
        """Return the cluster that the text of --cluster describes.

        The text is a list such as nodes=4,gpus=8,device=h100, an object of JSON with the same keys, or the name of a .json file with such
        an object. Keys that it leaves out are one node, the device h100, and as many devices as a node with them usually has. The device is
        a name of the table, an object of JSON, or the name of a .json file with one. Other keys replace numbers of the device.
        Raises: ConfigError.
        """
        content = _content(text.strip())
        for key in content:
            if key not in KEYS:
                raise ConfigError(f"--cluster: {key!r:.40} is no key of a cluster; {_meant(key)}known are {', '.join(KEYS)}")
        device = _device(content.get("device", H100.name)).changed(content)
        return Cluster(content.get("nodes", 1), content.get("gpus", device.gpus_per_node), device)

    def teraflops(self, precision: str) -> float:
        """Return the rate at which a device computes the model, in 10^12 FLOP/s: its peak in this precision x its efficiency. Ranks of
        a node share a CPU. Raises: ConfigError if the peak is not known."""
        return self.device.peak(precision) * self.device.efficiency / self._ranks_on_a_device

    @property
    def memory_gigabytes_per_second(self) -> float:
        """Bandwidth of the memory of one rank."""
        return self.device.memory_gigabytes_per_second / self._ranks_on_a_device

    @property
    def _ranks_on_a_device(self) -> int:
        return self.gpus if self.device.is_shared else 1

    def seconds(self, collective: Collective) -> float:
        """Return how long a collective takes. Its latency grows with the logarithm of the nodes, as in tree and hierarchical algorithms."""
        kind, num_bytes, size, stride = collective
        if size <= 1:
            return 0.0
        device, nodes = self.device, min(size, -(-size * stride // self.gpus))
        bandwidth = device.node_gigabytes_per_second
        if nodes > 1:  # each rank of a node sends through a port of its own
            bandwidth = min(bandwidth, device.network_gigabytes_per_second * -(-size // nodes))
        hops = math.ceil(math.log2(-(-size // nodes))) * device.node_microseconds
        hops += math.ceil(math.log2(nodes)) * device.network_microseconds
        return SENT_PER_BYTE[kind] * num_bytes * (size - 1) / size / (1e9 * bandwidth) + 1e-6 * hops


def _meant(key: str) -> str:
    near = next((name for name, others in ELSEWHERE.items() if key.lower() in others), None)
    return f"did you mean {near}? " if near else did_you_mean(key, KEYS)


def _device(value: Any) -> DeviceSpec:
    if isinstance(value, str) and value.endswith(".json"):
        value = _of_file(value, DEVICE_EXAMPLE)
    if isinstance(value, str):
        return named_device(value)
    if not isinstance(value, dict):
        raise ConfigError(f"--cluster: device is {value!r:.40}, must be a name such as {H100.name}, an object of JSON, or a .json file")
    return described_device(value)


def _content(text: str) -> dict[str, Any]:
    """Return the keys and values of the text of --cluster."""
    if text.endswith(".json") and "=" not in text:
        return _of_file(text, OBJECT)
    if text.startswith(("{", "[")):
        return _object(text, "--cluster", OBJECT)
    content = {}
    for key, value in _pairs(text):
        if key in content:
            raise ConfigError(f"--cluster: {key} stands twice; leave one out")
        content[key] = value
    return content


def _pairs(text: str) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a list such as gpus=8,device=h100. A value that begins with { is an object of JSON."""
    rest = f",{text}"
    while rest.startswith(","):
        key, equals, rest = rest[1:].partition("=")
        if not equals or "," in key:
            raise ConfigError(f"--cluster: no '=' in {key.partition(',')[0]!r:.40}; write {EXAMPLE}")
        value: Any
        rest = rest.lstrip()
        if rest.startswith("{"):
            value, rest = _leading_object(rest, f"--cluster {key.strip()}", DEVICE_EXAMPLE)
        else:
            plain = rest.partition(",")[0]
            value, rest = _number(plain.strip()), rest[len(plain) :]
        yield key.strip(), value
    if rest:
        raise ConfigError(f"--cluster: no comma before {rest!r:.40}; write {EXAMPLE}")


def _number(text: str) -> int | float | str:
    """Return the number that `text` is, or `text`."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _leading_object(text: str, where: str, example: str) -> tuple[dict[str, Any], str]:
    """Return the object of JSON at the beginning of `text`, and what stands behind it. Raises: ConfigError."""
    try:
        content, end = json.JSONDecoder(object_pairs_hook=_without_duplicates).raw_decode(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: broken JSON at character {error.pos + 1} ({error.msg}); write an object such as {example}") from None
    except (RecursionError, ValueError):
        raise ConfigError(f"{where}: JSON that is nested too deeply, or has too long a number; write an object such as {example}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: holds a {type(content).__name__}, must be an object such as {example}")
    return content, text[end:].strip()


def _object(text: str, where: str, example: str) -> dict[str, Any]:
    content, rest = _leading_object(text, where, example)
    if rest:
        raise ConfigError(f"{where}: {rest!r:.40} stands behind the object of JSON; remove it")
    return content


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ConfigError(f"--cluster: a key stands twice in an object of JSON that has {', '.join(content)}; remove one")
    return content


def _of_file(name: str, example: str) -> dict[str, Any]:
    """Return the object of JSON in a file. Raises: ConfigError."""
    try:
        text = Path(os.path.expanduser(name)).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"--cluster: {name}: {error.strerror}; name a .json file with an object such as {example}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--cluster: {name}: not UTF-8 text; name a .json file with an object such as {example}") from None
    return _object(text.strip(), f"--cluster {name}", example)
