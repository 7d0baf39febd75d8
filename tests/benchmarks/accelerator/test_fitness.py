"""Facts and notes about a device before any check runs."""

from typing import Any

import pytest

from accelerator import fitness
from accelerator.fitness import device_info, no_device, notes
from recipes.errors import ConfigError

GIB = 2**30


@pytest.mark.parametrize(
    ("free", "total", "said"),
    [
        (79.0, 80.0, []),
        (40.0, 80.0, ["40.0 of 80.0 GiB are in use by others"]),
        (39.0, 40.0, ["40.0 GiB of memory, the largest batches need about"]),
        (10.0, 40.0, ["30.0 of 40.0 GiB are in use by others", "40.0 GiB of memory"]),
    ],
)
def test_memory_in_use_and_too_little_of_it_are_noted(free: float, total: float, said: list[str]) -> None:
    found = notes({"free": free * GIB, "total": total * GIB})
    assert len(found) == len(said) and all(text in note for text, note in zip(said, found, strict=True))


def test_an_old_driver_and_no_driver_have_different_messages() -> None:
    info: dict[str, Any] = {"torch": "2.11.0+cu130", "problem": "The NVIDIA driver on your system is too old (found version 12020)."}
    assert no_device(info, "none").startswith("no GPU here")
    message = no_device(info, "535.54")
    assert message.startswith("driver 535.54 is there, and torch 2.11.0+cu130 sees no device")
    assert "too old (found version 12020)" in message


@pytest.mark.slow
def test_the_head_names_device_software_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    head = device_info("cpu")
    assert head["device"].startswith("cpu") and {"torch", "deepspeed", "megatron-core", "python"} <= head.keys() and head["notes"] == []
    monkeypatch.setattr(fitness, "QUERY", "raise SystemExit('broken install')")
    with pytest.raises(ConfigError, match="broken install"):
        device_info("cpu")
