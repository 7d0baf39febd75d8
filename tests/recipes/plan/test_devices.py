"""The table of devices: each number has a source, and the rules behind the assumed ones hold."""

import json
from typing import Any

import pytest

from recipes.errors import ConfigError
from recipes.plan.devices import A100, CPU, DEVICES, H100, H200, MI300X, NUMBERS, DeviceSpec, described_device, named_device

BLANK: dict[str, Any] = {"name": "x100", "peak_teraflops": {"bf16": 500}, "memory_gib": 96}


@pytest.mark.parametrize("device", DEVICES.values(), ids=list(DEVICES))
def test_each_number_of_a_device_has_its_source(device: DeviceSpec) -> None:
    numbers = {name: getattr(device, name) for name in NUMBERS if getattr(device, name) is not None}
    numbers |= {f"peak_teraflops.{precision}": peak for precision, peak in device.peak_teraflops.items()}
    assert {name: number.value for name, number in device.sources.items()} == numbers
    assert all(value > 0 for value in numbers.values()) and device.efficiency <= 1
    assert all(len(number.source) > 5 and number.kind in ("measured", "tabulated", "assumed") for number in device.sources.values())


def test_peaks_are_dense_and_memory_is_what_torch_reports() -> None:
    assert (H100.peak("bf16"), H200.peak("fp16"), A100.peak("bf16"), H100.peak("fp32")) == (989, 989, 312, 67)
    assert H200.sources["memory_gib"].kind == CPU.sources["efficiency"].kind == "measured"
    marketed = {"h100": 80, "h200": 141, "b200": 180, "a100": 80, "l40s": 48}
    assert all(0.92 * size < DEVICES[name].memory_bytes() / 2**30 < size for name, size in marketed.items())
    assert MI300X.memory_bytes() == int(191.7 * 2**30)


def test_a_cpu_has_neither_fp16_nor_a_memory_of_its_own() -> None:
    with pytest.raises(
        ConfigError, match=r'device cpu has no peak in fp16, only in fp32 or bf16; take .* or give .*peak_teraflops=\{"fp16": N\}'
    ):
        CPU.peak("fp16")
    with pytest.raises(ConfigError, match="the memory of device cpu is not in the table; give it by memory_gib=N"):
        CPU.memory_bytes()
    assert CPU.changed({"memory_gib": 24}).memory_bytes() == 24 * 2**30


def test_a_changed_number_has_the_user_as_its_source_and_the_others_keep_theirs() -> None:
    device = H100.changed({"watts": 350, "peak_teraflops": {"bf16": 756}})
    assert (device.watts, device.peak("bf16"), device.peak("fp16")) == (350, 756, 989)
    assert device.sources["watts"] == (350, "--cluster", "given")
    assert device.sources["peak_teraflops.bf16"].kind == "given" and device.sources["efficiency"] == H100.sources["efficiency"]
    assert H100.watts == 700, "the table stays as it is"


def test_a_described_device_has_the_numbers_given_and_the_h100s_as_assumed_ones() -> None:
    device = described_device(BLANK | {"watts": 500, "gpus_per_node": 4})
    assert (device.name, device.peak("bf16"), device.memory_gib, device.watts, device.gpus_per_node) == ("x100", 500, 96, 500, 4)
    assert device.sources["memory_gib"] == (96, "device x100", "given")
    assert device.sources["efficiency"] == (H100.efficiency, "not given: the H100's", "assumed")
    assert set(device.peak_teraflops) == {"bf16"} and set(device.sources) == {*NUMBERS, "peak_teraflops.bf16"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ""}, "the device has no name; it needs at least"),
        ({"name": 5}, "the name of the device is 5, must be a text"),
        ({"peak_teraflops": {}}, "the device has no peak_teraflops"),
        ({"memory_gib": None}, "the device has no memory_gib"),
        ({"memory_gib": "96"}, "memory_gib is '96', must be a number above 0"),
        ({"memory_gib": -96}, "memory_gib is -96, must be a number above 0"),
        ({"watts": True}, "watts is True, must be a number above 0"),
        ({"watts": 10**400}, "watts is 1000+, must be a number above 0"),
        ({"watts": float("nan")}, "watts is nan, must be a number above 0"),
        ({"efficiency": 40}, "efficiency is 40, must be a share of the peak, above 0 and at most 1"),
        ({"peak_teraflops": 500}, r"peak_teraflops is 500, must name precisions, such as \{\"bf16\": 500\}"),
        ({"peak_teraflops": {"bf16": 0}}, r"peak_teraflops.bf16 is 0, must be a number above 0"),
        ({"peak_teraflops": {"bfloat16": 500}}, "bfloat16 is no precision of peak_teraflops; known are fp32, bf16, fp16"),
        ({"peak_teraflops": {"bf15": 500}}, "bf15 is no precision of peak_teraflops; did you mean bf16"),
        ({"gpus_per_node": 0}, "gpus_per_node is 0, must be an integer of at least 1"),
        ({"wats": 5}, "'wats' is no number of a device; did you mean watts"),
    ],
)
def test_a_description_that_makes_no_sense_is_an_error(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        described_device(BLANK | changes)


def test_a_name_is_found_in_upper_case_and_an_unknown_one_is_an_error_that_lists_the_table() -> None:
    assert named_device("H100") is H100
    with pytest.raises(
        ConfigError, match=r"no device 'mi300' in the table; did you mean mi300x.*known are h100, h200, b200.*given as device="
    ) as found:
        named_device("mi300")
    assert json.loads(str(found.value).split("device=")[1].split(" or ")[0]) == BLANK and "\n" not in str(found.value)
