"""Which library computes a run's matrix products on a CPU, the same on all ranks. The products are in model/products.py."""

from typing import Literal

import torch

from model.config import ProductLibrary
from recipes.cluster.world import World
from recipes.engine.cpu_adam import PROC_CPUINFO, cpu_info
from recipes.errors import ConfigError

AMD = "AuthenticAMD"
"""The name that AMD's processors give as their vendor."""
ZEN_5 = 26
"""The first family of AMD's processors on which MKL reaches half of oneDNN's speed in all three products. On earlier ones it is slower by a
tenth, and faster in the product that needs a copy."""
FASTEST: tuple[ProductLibrary, ...] = ("mm", "mixed", "onednn")
"""From the choice that suits every processor to the one that suits fewest."""


def choose_products(setting: Literal["auto"] | ProductLibrary, recorded: ProductLibrary | None, world: World) -> ProductLibrary:
    """Return the library of this launch. `setting`: run.products. `recorded`: the library of the run so far; None for a new run. A
    collective. Raises: ConfigError if the setting names a library that this torch lacks."""
    chosen = recorded if setting == "auto" else setting
    if chosen in ("onednn", "mixed") and not torch.backends.mkldnn.is_available():
        raise ConfigError(f"run.products {chosen}: this build of torch has no oneDNN; --set run.products=mm")
    if chosen is not None:
        return chosen
    return FASTEST[-world.largest(-FASTEST.index(preferred_library(world.device)))]


def preferred_library(device: torch.device) -> ProductLibrary:
    """Return the library whose float32 products are probably the fastest on this rank: MKL does not use the widest vectors of AMD's
    processors."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or not PROC_CPUINFO.exists():
        return "mm"
    processor = cpu_info()
    if processor["vendor_id_raw"] != AMD:
        return "mm"
    return "onednn" if processor["family"] >= ZEN_5 else "mixed"
