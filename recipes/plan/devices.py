"""Devices of a cluster: peak rates, memory, links and power, each number with its source. Torch-free.

A number is measured (by this project), tabulated (by the vendor, or by a library for the device), assumed, or given by the user. An assumed
number is an opinion that a measurement on the cluster in question replaces. How the devices make a cluster: recipes/plan/links.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from model.bounds import is_finite
from recipes.errors import ConfigError
from recipes.suggestions import did_you_mean

PRECISIONS = ("fp32", "bf16", "fp16")
NUMBERS = (
    *("memory_gib", "memory_gigabytes_per_second", "node_gigabytes_per_second", "network_gigabytes_per_second"),
    *("node_microseconds", "network_microseconds", "watts", "efficiency", "host_factor"),
)
"""Fields of DeviceSpec that are single numbers with a source. The peaks have one source for each precision."""
DEVICE_EXAMPLE = '{"name": "x100", "peak_teraflops": {"bf16": 500}, "memory_gib": 96}'


class Sourced(NamedTuple):
    """A number, where it comes from, and how sure it is."""

    value: float
    source: str
    kind: Literal["measured", "tabulated", "assumed", "given"]


@dataclass(frozen=True)
class DeviceSpec:
    """What one rank computes with, and its links."""

    name: str
    peak_teraflops: Mapping[str, float]
    """Precision (fp32, bf16, fp16) -> peak rate of dense matrix products, in 10^12 FLOP/s. fp32 is torch's default: no TF32."""
    memory_gigabytes_per_second: float
    """Bandwidth of the device's own memory."""
    node_gigabytes_per_second: float
    """Bandwidth of a rank to others of its node in one direction, as large collectives reach it (bus bandwidth of nccl-tests)."""
    network_gigabytes_per_second: float
    """Bandwidth of a rank's own port to other nodes, in one direction. Ranks of a node use theirs together."""
    node_microseconds: float
    """Latency of a hop inside a node."""
    network_microseconds: float
    """Latency of a hop between nodes."""
    watts: float
    """Thermal design power of the device alone, without its part of the host."""
    efficiency: float
    """Share of the peak that the matrix products of a run reach."""
    host_factor: float
    """Factor on Python's seconds for a block (recipes/plan/step.py): kernels are launched, or wait for the threads that share them."""
    memory_gib: float | None = None
    """Memory as torch reports it, in GiB; None if the table does not say, as for a CPU."""
    gpus_per_node: int = 8
    is_shared: bool = False
    """True for a CPU, which all ranks of a node share."""
    cuda_name: str = ""
    """Part of the name that torch.cuda gives the device; "" if it is no GPU, or not of the table."""
    sources: Mapping[str, Sourced] = field(default_factory=dict, repr=False)
    """Name of a number, such as watts or peak_teraflops.bf16, -> the number with its source."""

    def peak(self, precision: str) -> float:
        """Return the peak rate of dense products in 10^12 FLOP/s. `precision`: of the run. Raises: ConfigError if it is not known."""
        if precision not in self.peak_teraflops:
            known = " or ".join(self.peak_teraflops)
            raise ConfigError(
                f"--cluster: device {self.name} has no peak in {precision}, only in {known}; take a ds_config in that, or give the peak "
                f'by peak_teraflops={{"{precision}": N}}, in dense TFLOP/s'
            )
        return self.peak_teraflops[precision]

    def memory_bytes(self) -> int:
        """Return the bytes of memory. Raises: ConfigError if they are not known."""
        if self.memory_gib is None:
            raise ConfigError(f"--cluster: the memory of device {self.name} is not in the table; give it by memory_gib=N, for one rank")
        return int(self.memory_gib * 2**30)

    def changed(self, content: Mapping[str, Any], where: str = "--cluster") -> "DeviceSpec":
        """Return the device with the numbers of `content` (fields of NUMBERS, peak_teraflops) in place of its own, with `where` as their
        source. Raises: ConfigError for a value that is no such number."""
        given = {name: Sourced(_checked(name, content[name]), where, "given") for name in NUMBERS if name in content}
        peaks = {key: Sourced(value, where, "given") for key, value in _checked_peaks(content.get("peak_teraflops", {})).items()}
        return _with(self, peaks, given)


def _with(device: DeviceSpec, peaks: Mapping[str, Sourced], numbers: Mapping[str, Sourced]) -> DeviceSpec:
    peak_teraflops = {**device.peak_teraflops, **{precision: float(peak.value) for precision, peak in peaks.items()}}
    sources = {**device.sources, **{f"peak_teraflops.{precision}": peak for precision, peak in peaks.items()}, **numbers}
    values = {name: float(number.value) for name, number in numbers.items()}
    return replace(device, peak_teraflops=peak_teraflops, sources=sources, **values)  # type: ignore[arg-type]


def _checked(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not is_finite(value) or value <= 0:
        raise ConfigError(f"--cluster: {name} is {value!r:.40}, must be a number above 0")
    if name == "efficiency" and value > 1:
        raise ConfigError(f"--cluster: efficiency is {value:g}, must be a share of the peak, above 0 and at most 1")
    return float(value)


def _checked_peaks(peaks: Any) -> dict[str, float]:
    if not isinstance(peaks, dict):
        raise ConfigError(f'--cluster: peak_teraflops is {peaks!r:.40}, must name precisions, such as {{"bf16": 500}}')
    for precision in peaks:
        if precision not in PRECISIONS:
            hint = did_you_mean(precision, PRECISIONS)
            raise ConfigError(f"--cluster: {precision} is no precision of peak_teraflops; {hint}known are {', '.join(PRECISIONS)}")
    return {precision: _checked(f"peak_teraflops.{precision}", value) for precision, value in peaks.items()}


def named_device(name: str) -> DeviceSpec:
    """Return the device of the table with this name, in upper or lower case. Raises: ConfigError."""
    if name.lower() not in DEVICES:
        raise ConfigError(
            f"--cluster: no device {name!r:.40} in the table; {did_you_mean(name, DEVICES)}known are {', '.join(DEVICES)}; another one is "
            f"given as device={DEVICE_EXAMPLE} or as the name of a .json file with such an object"
        )
    return DEVICES[name.lower()]


def device_by_cuda_name(name: str) -> DeviceSpec | None:
    """Return the device of the table to which CUDA gives this name; None if it is not in the table, or is a part of one (MIG)."""
    return None if "MIG" in name else next((one for one in DEVICES.values() if one.cuda_name and one.cuda_name in name), None)


def described_device(content: Mapping[str, Any]) -> DeviceSpec:
    """Return the device that an object of JSON describes: name, peak_teraflops and memory_gib, and any other number of NUMBERS. A number
    that is left out is the H100's and counts as assumed. Raises: ConfigError."""
    known = ("name", "peak_teraflops", *NUMBERS, "gpus_per_node")
    for key in content:
        if key not in known:
            raise ConfigError(f"--cluster: {key!r:.40} is no number of a device; {did_you_mean(key, known)}known are {', '.join(known)}")
    missing = [key for key in ("name", "peak_teraflops", "memory_gib") if not content.get(key)]
    if missing:
        raise ConfigError(f"--cluster: the device has no {missing[0]}; it needs at least {DEVICE_EXAMPLE}")
    name, gpus = content["name"], content.get("gpus_per_node", 8)
    if not isinstance(name, str):
        raise ConfigError(f"--cluster: the name of the device is {name!r:.40}, must be a text")
    assumed = {key: number._replace(source="not given: the H100's", kind="assumed") for key, number in H100.sources.items()}
    blank = replace(H100, name=name, peak_teraflops={}, cuda_name="", gpus_per_node=positive_integer("gpus_per_node", gpus))
    return replace(blank, sources={key: assumed[key] for key in NUMBERS}).changed(content, f"device {name}")


def positive_integer(name: str, value: Any) -> int:
    """Return `value` if it is an integer of at least 1. `name`: of the key of --cluster. Raises: ConfigError."""
    if type(value) is not int or value < 1:
        raise ConfigError(f"--cluster: {name} is {value!r:.40}, must be an integer of at least 1; write {name}=8, for example")
    return value


def _row(name: str, cuda_name: str, peaks: Mapping[str, Sourced], gpus_per_node: int = 8, **numbers: Sourced) -> DeviceSpec:
    blank = DeviceSpec(name, {}, *(0.0,) * 8, gpus_per_node=gpus_per_node, is_shared=not cuda_name, cuda_name=cuda_name)
    return _with(blank, peaks, numbers)


def _peaks(source: str, fp32: float, half: float) -> dict[str, Sourced]:
    """Return the peaks of a GPU that its vendor tabulates, the same in bf16 and fp16."""
    return {precision: tabulated(value, source) for precision, value in zip(PRECISIONS, (fp32, half, half), strict=True)}


def tabulated(value: float, source: str) -> Sourced:
    """Return a number of a vendor or a library."""
    return Sourced(value, source, "tabulated")


def assumed(value: float, source: str) -> Sourced:
    """Return a number that has not been measured for this table."""
    return Sourced(value, source, "assumed")


def measured(value: float, source: str) -> Sourced:
    """Return a number that this project measured."""
    return Sourced(value, source, "measured")


NVLINK_HOP = assumed(3.0, "near NCCL's tuning model (src/graph/tuning.cc): 3.4 us a hop over NVLink")
NETWORK_HOP = assumed(15.0, "above NCCL's tuning model (src/graph/tuning.cc), which has 9.6 us a hop")
PORT_400 = assumed(40.0, "0.8 of one 400 Gbit/s port a GPU; NCCL's maintainers expect 46 to 48 in nccl-tests (issue 290)")
PORT_200 = assumed(20.0, "0.8 of one 200 Gbit/s port a GPU")
LAUNCHES = measured(2.2, "one H200's 157 ms of text_base 64 x 512, where the host was the limit, over 70 ms (docs/performance.md)")
PRODUCTS = "usual for products of these sizes; docs/planner.md compares an H200's time with the estimate"

H100 = _row(
    "h100",
    "H100",
    _peaks("NVIDIA H100 data sheet, SXM5; tensor cores without sparsity, fp32 without TF32", fp32=67, half=989),
    memory_gib=tabulated(79.1, "80 GB as torch reports them (79.11 GiB, vllm issue 27508)"),
    memory_gigabytes_per_second=tabulated(3350, "NVIDIA H100 data sheet, SXM5"),
    node_gigabytes_per_second=assumed(300, "0.8 of the 370 that NCCL's rings reach over NVLink (nccl-tests issue 212)"),
    network_gigabytes_per_second=PORT_400,
    node_microseconds=NVLINK_HOP,
    network_microseconds=NETWORK_HOP,
    watts=tabulated(700, "NVIDIA H100 data sheet, SXM5"),
    efficiency=assumed(0.7, PRODUCTS),
    host_factor=LAUNCHES,
)
H200 = _row(
    "h200",
    "H200",
    _peaks("NVIDIA H200 data sheet, SXM; tensor cores without sparsity, fp32 without TF32", fp32=67, half=989),
    memory_gib=measured(139.8, "docs/performance.md, One H200, 2026-11-26"),
    memory_gigabytes_per_second=tabulated(4800, "NVIDIA H200 data sheet, SXM"),
    node_gigabytes_per_second=assumed(300, "as the H100, which has the same NVLink"),
    network_gigabytes_per_second=PORT_400,
    node_microseconds=NVLINK_HOP,
    network_microseconds=NETWORK_HOP,
    watts=tabulated(700, "NVIDIA H200 data sheet, SXM"),
    efficiency=assumed(0.7, PRODUCTS),
    host_factor=LAUNCHES,
)
B200 = _row(
    "b200",
    "NVIDIA B200",  # not the GB200, which has another peak
    _peaks("NVIDIA Blackwell architecture brief, HGX B200; tensor cores without sparsity, fp32 without TF32", fp32=80, half=2250),
    memory_gib=tabulated(178.3, "180 GB as CUDA reports them (178.35 GiB, pytorch/ao pull request 4002)"),
    memory_gigabytes_per_second=tabulated(7670, "7,680 bits at 3,996 MHz (pytorch/ao pull request 4002); NVIDIA rounds to 8 TB/s"),
    node_gigabytes_per_second=assumed(580, "0.8 of 18 NVLinks of 40.1 in NCCL's model of the B200 (src/graph/topo.h)"),
    network_gigabytes_per_second=PORT_400,
    node_microseconds=NVLINK_HOP,
    network_microseconds=NETWORK_HOP,
    watts=tabulated(1000, "NVIDIA Blackwell architecture brief, HGX B200"),
    efficiency=assumed(0.7, PRODUCTS),
    host_factor=LAUNCHES,
)
A100 = _row(
    "a100",
    "A100",
    _peaks("NVIDIA A100 data sheet, SXM4; tensor cores without sparsity, fp32 without TF32", fp32=19.5, half=312),
    memory_gib=tabulated(79.1, "80 GB as torch reports them (79.15 GiB, vllm issue 4408)"),
    memory_gigabytes_per_second=tabulated(2039, "NVIDIA A100 data sheet, SXM4 80 GB"),
    node_gigabytes_per_second=assumed(190, "0.8 of the 235 that NCCL's model has at most for Ampere (src/graph/tuning.cc)"),
    network_gigabytes_per_second=PORT_200,
    node_microseconds=NVLINK_HOP,
    network_microseconds=NETWORK_HOP,
    watts=tabulated(400, "NVIDIA A100 data sheet, SXM4"),
    efficiency=assumed(0.7, PRODUCTS),
    host_factor=LAUNCHES,
)
MI300X = _row(
    "mi300x",
    "MI300X",
    _peaks("AMD Instinct MI300X data sheet; matrix cores without sparsity", fp32=163.4, half=1307.4),
    memory_gib=tabulated(191.7, "192 GB as torch reports them (191.69 to 191.98 GiB in messages of several users)"),
    memory_gigabytes_per_second=tabulated(5300, "AMD Instinct MI300X data sheet"),
    node_gigabytes_per_second=assumed(270, "0.8 of 7 links of 48 (AMD's blog on RCCL and xGMI on MI300X)"),
    network_gigabytes_per_second=PORT_400,
    node_microseconds=assumed(3.0, "as NVLink"),
    network_microseconds=NETWORK_HOP,
    watts=tabulated(750, "AMD Instinct MI300X data sheet"),
    efficiency=assumed(0.45, "as reported for its matrix products (aiweekly.co, 2026)"),
    host_factor=LAUNCHES,
)
L40S = _row(
    "l40s",
    "L40S",
    _peaks("NVIDIA L40S data sheet; tensor cores without sparsity, fp32 without TF32", fp32=91.6, half=362),
    memory_gib=tabulated(44.4, "48 GB with ECC as torch reports them (44.42 GiB, Step-Video-T2V issue 8)"),
    memory_gigabytes_per_second=tabulated(864, "NVIDIA L40S data sheet"),
    node_gigabytes_per_second=assumed(16, "0.8 of the 20 that NCCL reaches over PCIe 4 (nccl-tests issue 178); no NVLink"),
    network_gigabytes_per_second=assumed(16, "one 200 Gbit/s port a GPU, behind the same PCIe"),
    node_microseconds=assumed(6.0, "near NCCL's tuning model (src/graph/tuning.cc): 5.7 us a hop over PCIe"),
    network_microseconds=NETWORK_HOP,
    watts=tabulated(350, "NVIDIA L40S data sheet"),
    efficiency=assumed(0.7, PRODUCTS),
    host_factor=LAUNCHES,
)
CPU = _row(
    "cpu",
    "",
    {
        "fp32": measured(0.22, "fitted to updates of text (docs/planner.md); torch.mm of 2048 x 2048 reaches 0.183 to 0.215"),
        "bf16": measured(0.434, "torch.mm of 2048 x 2048, two cores of an AMD EPYC (Zen 4), docs/performance.md"),
    },
    gpus_per_node=1,
    memory_gigabytes_per_second=measured(23.8, "fitted to updates of text (docs/planner.md)"),
    node_gigabytes_per_second=measured(1.0, "all-reduce of 64 MiB by gloo, two processes, busy machine, 2026-11-28: 0.8 to 1.1"),
    network_gigabytes_per_second=assumed(1.0, "0.8 of 10 Gbit/s"),
    node_microseconds=measured(100, "all-reduce of one number by gloo, two processes, busy machine, 2026-11-28"),
    network_microseconds=assumed(200, "gloo over TCP, twice that inside a machine"),
    watts=assumed(8, "two of the 96 cores of an EPYC 9654 of 360 W"),
    efficiency=measured(1.0, "part of the fitted peak"),
    host_factor=measured(2.0, "fitted to updates of text (docs/planner.md)"),
)
DEVICES = {device.name: device for device in (H100, H200, B200, A100, MI300X, L40S, CPU)}
"""Name in --cluster -> device. cpu is two cores of an AMD EPYC (Zen 4), which all ranks of a node share."""
