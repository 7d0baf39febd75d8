"""What the launcher and the shell told this process, read before torch is imported. Torch-free."""

import logging
import os
import warnings

from recipes.errors import ConfigError


def world_from_environment() -> tuple[int, int]:
    """(rank, number of processes) as the launcher set them; (0, 1) under plain python. Touches no network."""
    try:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise ConfigError(
            f"RANK={os.environ.get('RANK')!r} WORLD_SIZE={os.environ.get('WORLD_SIZE')!r}: must be integers; unset them or use a launcher"
        ) from None


def quiet_libraries() -> None:
    """Keep the chatter of torch, Megatron and DeepSpeed off the terminal unless DATA2VEC_VERBOSE=1. Call before importing them."""
    if os.environ.get("DATA2VEC_VERBOSE") == "1":
        return
    warnings.simplefilter("ignore")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name in ("DeepSpeed", "megatron", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("DS_LOG_LEVEL", "error")
