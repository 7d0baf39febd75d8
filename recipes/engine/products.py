"""Which library computes a run's matrix products on a CPU, the same on all ranks. The products are in model/products.py."""

from typing import Literal

import torch

from model.config import ProductLibrary
from recipes.cluster.world import World
from recipes.engine.cpu_adam import PROC_CPUINFO, cpu_info
from recipes.errors import ConfigError

AMD = "AuthenticAMD"
"""The name that AMD's processors give as their vendor."""


def choose_products(setting: Literal["auto", "mm", "onednn"], recorded: ProductLibrary | None, world: World) -> ProductLibrary:
    """Return the library of this launch. `setting`: run.products. `recorded`: the library of the run so far; None for a new run. A
    collective. Raises: ConfigError if the setting names a library that this torch lacks."""
    if setting == "onednn" and not torch.backends.mkldnn.is_available():
        raise ConfigError("run.products onednn: this build of torch has no oneDNN; leave it out, or --set run.products=mm")
    if setting != "auto":
        return setting
    if recorded is not None:
        return recorded
    return "mm" if world.largest(int(not prefers_onednn(world.device))) else "onednn"


def prefers_onednn(device: torch.device) -> bool:
    """True if oneDNN's float32 products are probably faster than MKL's: MKL does not use the widest vectors of AMD's processors."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or not PROC_CPUINFO.exists():
        return False
    return bool(cpu_info()["vendor_id_raw"] == AMD)
