"""The one name of this repository for other programs. All else is in the modules of this package."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from recipes.interop.encoder import TrainedEncoder


def load_encoder(name: str | Path, *, weights: str = "student", device: "str | torch.device | None" = None) -> "TrainedEncoder":
    """Return a trained network as an object that turns texts, recordings or images into features (recipes/interop/encoder.py).

    `name`: a run dir (its newest checkpoint), a checkpoint folder, a Hugging Face directory, or a hub name. `weights`: student, or teacher
    (its EMA). `device`: None is the GPU if there is one, else the CPU.
    Raises: ConfigError if there is no such network, or if its weights or tokenizer cannot be read.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Megatron's, about libraries that are not needed
        from recipes.interop.encoder import open_encoder
    return open_encoder(str(name), weights, device)
