"""With which kernels a launch computes: precision, matrix products, determinism. Decided before the engines are built."""

import os
from pathlib import Path

import torch

from model.config import ProductLibrary
from recipes.cluster.world import World
from recipes.config import Recipe
from recipes.ds_config import EngineConfig
from recipes.engine.build import PRECISIONS, is_supported
from recipes.engine.cpu_adam import PROC_CPUINFO, cpu_info
from recipes.engine.products import choose_products
from recipes.errors import ConfigError
from recipes.train.resume import read_started_run

BF16_FLAGS = ("amx_bf16", "avx512_bf16")
"""Names in /proc/cpuinfo of instructions for products of bf16 numbers."""


def products_of_run(run_dir: Path, recipe: Recipe, world: World) -> ProductLibrary:
    """Return the library of matrix products for this launch of the run in `run_dir`. A run that began before there was a choice has
    torch's. A collective. Raises: ConfigError."""
    started = world.on_rank_zero(lambda: read_started_run(run_dir))
    return choose_products(recipe.run.products, started.content.get("products", "mm") if started else None, world)


def check_precision(config: EngineConfig) -> None:
    """Check that the device of this rank can compute in the precision of the ds_config. Raises: ConfigError if it cannot."""
    if not is_supported(config.precision):
        others = " or ".join(precision for precision in PRECISIONS if is_supported(precision))
        raise ConfigError(f"{config.path}: DeepSpeed has no {config.precision} on this device; use a ds_config with {others}")


def precision_line(config: EngineConfig, device: torch.device) -> str | None:
    """Return the line for the terminal on bf16 for a run in fp32 on a CPU whose processor has instructions for it; None for other runs."""
    if config.precision != "fp32" or device.type != "cpu" or not PROC_CPUINFO.exists():
        return None
    found = next((flag for flag in BF16_FLAGS if flag in cpu_info()["flags"]), None)
    return found and f"fp32; this processor has {found}: --deepspeed_config zero3_cpu_bf16 may take half the time (docs/performance.md)"


def choose_kernels(deterministic: bool) -> None:
    """Restrict torch to deterministic kernels if `deterministic`, and turn cuDNN's attention off. Call it before the first matrix product
    on a device.

    Where some keys are excluded, cuDNN's attention returns NaN as the gradient of the queries if the length is 64 more than a multiple of
    128 (torch 2.11 to 2.13, PyTorch issue 196678). It also builds a plan for every new length. The flash and
    memory-efficient kernels stay.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at the first product; without it torch raises
    torch.use_deterministic_algorithms(deterministic)
