"""Which of a network's features are meant: the flags --layer and --pool, and the same arguments in Python. Torch-free."""

from typing import Literal

from recipes.errors import ConfigError

Layer = int | Literal["last", "mean"]
Pool = Literal["mean", "cls", "none"]
BATCH = 32
"""Items of a batch, unless the user says otherwise."""
POOLS: tuple[Pool, ...] = ("mean", "cls", "none")
LAYER_HELP = (
    "N: the output of block N, counted from 1 (0: the input of the first block; the numbers are those of hidden_states in transformers); "
    "last: of the last block; mean: the average of all blocks"
)
POOL_HELP = (
    "mean: the average over the tokens, frames or patches of an item; cls: the output at <s> (text) or CLS (vision); "
    "none: one vector for each token, frame or patch"
)


def read_layer(text: str) -> Layer:
    """Return the layer that a flag names. Raises: ConfigError if it is neither a number nor last or mean."""
    if text in ("last", "mean"):
        return text  # type: ignore[return-value]  # mypy does not narrow a str to a Literal
    if not text.lstrip("-").isdecimal():
        raise ConfigError(f"--layer {text}: must be a number of a block, last or mean")
    return int(text)


def check_choice(layer: Layer, pool: str, num_layers: int, cls_name: str | None, dashes: str = "") -> None:
    """Check that a network of num_layers blocks has this layer, and its samples this pooling. `cls_name`: the token that cls is the output
    of. `dashes`: "--" if the two are flags. Raises: ConfigError if not."""
    if layer not in ("last", "mean") and not (type(layer) is int and 0 <= layer <= num_layers):
        shown = layer if dashes else repr(layer)
        raise ConfigError(f"{dashes}layer {shown}: the model has {num_layers} blocks; name 0 to {num_layers}, last or mean")
    if pool not in POOLS:
        raise ConfigError(f"{dashes}pool {pool}: must be one of {', '.join(POOLS)}")
    if pool == "cls" and cls_name is None:
        raise ConfigError(f"{dashes}pool cls: this modality has no token for the whole sample; use mean or none")
