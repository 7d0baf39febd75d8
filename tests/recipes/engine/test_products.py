"""The choice of the library of matrix products: by the processors of all ranks, kept by a run, overridden by its setting."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recipes.engine import products
from recipes.engine.products import choose_products, prefers_onednn
from recipes.errors import ConfigError
from tests.launching import PRETRAIN, launch, overrides

CPU = torch.device("cpu")


def world_of(*are_amd: bool) -> Any:
    """Return a world of one rank for each value, in which this is the first one. True: its processor is AMD's."""
    return SimpleNamespace(device=CPU, largest=lambda number: max(number, *(int(not is_amd) for is_amd in are_amd)))


def give_vendor(vendor: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let /proc/cpuinfo name this vendor."""
    (folder / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: avx2\n\n")
    monkeypatch.setattr("recipes.engine.cpu_adam.PROC_CPUINFO", folder / "cpuinfo")
    monkeypatch.setattr(products, "PROC_CPUINFO", folder / "cpuinfo")


@pytest.mark.parametrize(("vendor", "others", "expected"), [
    ("AuthenticAMD", (True, True), "onednn"),
    ("AuthenticAMD", (True, False), "mm"),
    ("GenuineIntel", (True, True), "mm"),
])  # fmt: skip
def test_onednn_is_taken_where_all_ranks_have_amds_processors(
    vendor: str, others: tuple[bool, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_vendor(vendor, tmp_path, monkeypatch)
    assert choose_products("auto", None, world_of(*others)) == expected


def test_a_run_keeps_its_library_and_the_setting_overrides_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_vendor("AuthenticAMD", tmp_path, monkeypatch)
    assert choose_products("auto", "mm", world_of(True)) == "mm"
    assert choose_products("onednn", "mm", world_of(True)) == "onednn"


def test_a_device_and_a_system_without_cpuinfo_have_torchs_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not prefers_onednn(torch.device("cuda", 0))
    monkeypatch.setattr(products, "PROC_CPUINFO", tmp_path / "none")
    assert not prefers_onednn(CPU)


def test_a_torch_without_onednn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"run.products onednn: this build of torch has no oneDNN; .* --set run.products=mm"):
        choose_products("onednn", None, world_of(True))
    assert not prefers_onednn(CPU)


def test_config_json_records_the_library_and_a_continued_run_keeps_it(tmp_path: Path) -> None:
    def recorded(steps: int, *more: str) -> str:
        args = ["--run-dir", "run", *overrides("text", run__max_steps=steps), *more]
        done = launch(PRETRAIN["text"], args, tmp_path)
        assert done.returncode == 0, done.stderr
        return str(json.loads((tmp_path / "run" / "config.json").read_text())["products"])

    other = "mm" if prefers_onednn(CPU) else "onednn"
    assert recorded(1, "--set", f"run.products={other}") == other
    assert recorded(2) == other
    assert recorded(3, "--set", "run.products=auto") == other
