"""What the launcher and the shell told this process, read before torch is imported. Torch-free."""

import logging
import os
import warnings

from recipes.errors import ConfigError


def world_from_environment() -> tuple[int, int]:
    """(rank, number of processes) as the launcher set them; (0, 1) under plain python. Touches no network."""
    try:
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if not 0 <= rank < size:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"RANK={os.environ.get('RANK')!r} WORLD_SIZE={os.environ.get('WORLD_SIZE')!r}: must be integers, 0 <= RANK < WORLD_SIZE; "
            "unset them or use a launcher"
        ) from None
    return rank, size


def is_first_rank() -> bool:
    """Whether this process speaks for the run; one that was told nonsense does, for nobody else would."""
    try:
        return world_from_environment()[0] == 0
    except ConfigError:
        return True


def quiet_libraries() -> None:
    """Keep the chatter of torch, Megatron, DeepSpeed and the hub's client off the terminal unless DATA2VEC_VERBOSE=1. Call
    before importing them."""
    if os.environ.get("DATA2VEC_VERBOSE") == "1":
        return
    warnings.simplefilter("ignore")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name in ("DeepSpeed", "megatron", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # DeepSpeed sets its own level when it is imported; a filter stays.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    for name in ("HF_HUB_VERBOSITY", "DATASETS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("WANDB_SILENT", "true")
