"""The choice of the library of matrix products: by the processors of all ranks, kept by a run, overridden by its setting."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.config import ProductLibrary
from recipes.engine import products
from recipes.engine.products import FASTEST, choose_products, preferred_library
from recipes.errors import ConfigError
from tests.launching import PRETRAIN, launch, overrides

CPU = torch.device("cpu")


def world_of(*others: ProductLibrary) -> Any:
    """Return a world of this rank and of others, whose processors prefer these libraries."""
    return SimpleNamespace(device=CPU, largest=lambda number: max(number, *(-FASTEST.index(library) for library in others)))


def give_processor(vendor: str, family: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let /proc/cpuinfo name this processor."""
    (folder / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nflags\t\t: avx2\n\n")
    monkeypatch.setattr("recipes.engine.cpu_adam.PROC_CPUINFO", folder / "cpuinfo")
    monkeypatch.setattr(products, "PROC_CPUINFO", folder / "cpuinfo")


@pytest.mark.parametrize(("vendor", "family", "others", "expected"), [
    ("AuthenticAMD", 26, ("onednn", "onednn"), "onednn"),
    ("AuthenticAMD", 26, ("onednn", "mixed"), "mixed"),
    ("AuthenticAMD", 25, ("onednn", "onednn"), "mixed"),
    ("AuthenticAMD", 26, ("mixed", "mm"), "mm"),
    ("GenuineIntel", 6, ("onednn", "onednn"), "mm"),
])  # fmt: skip
def test_all_ranks_take_the_library_that_suits_each_processor(
    vendor: str, family: int, others: tuple[ProductLibrary, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_processor(vendor, family, tmp_path, monkeypatch)
    assert choose_products("auto", None, world_of(*others)) == expected


def test_a_run_keeps_its_library_and_the_setting_overrides_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_processor("AuthenticAMD", 26, tmp_path, monkeypatch)
    assert choose_products("auto", "mm", world_of("onednn")) == "mm"
    assert choose_products("onednn", "mm", world_of("mm")) == "onednn"


def test_a_device_and_a_system_without_cpuinfo_have_torchs_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert preferred_library(torch.device("cuda", 0)) == "mm"
    monkeypatch.setattr(products, "PROC_CPUINFO", tmp_path / "none")
    assert preferred_library(CPU) == "mm"


def test_a_torch_without_onednn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"run.products onednn: this build of torch has no oneDNN; --set run.products=mm"):
        choose_products("onednn", None, world_of("onednn"))
    with pytest.raises(ConfigError, match=r"run.products mixed: this build of torch has no oneDNN; --set run.products=mm"):
        choose_products("auto", "mixed", world_of("mm"))
    assert preferred_library(CPU) == "mm"


@pytest.mark.slow
def test_config_json_records_the_library_and_a_continued_run_keeps_it(tmp_path: Path) -> None:
    def recorded(steps: int, *more: str) -> str:
        args = ["--run-dir", "run", *overrides("text", run__max_steps=steps), *more]
        done = launch(PRETRAIN["text"], args, tmp_path)
        assert done.returncode == 0, done.stderr
        return str(json.loads((tmp_path / "run" / "config.json").read_text())["products"])

    other = "onednn" if preferred_library(CPU) == "mm" else "mm"
    assert recorded(1, "--set", f"run.products={other}") == other
    assert recorded(2) == other
    assert recorded(3, "--set", "run.products=auto") == other
