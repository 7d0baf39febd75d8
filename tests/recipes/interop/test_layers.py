"""Which layers and poolings may be named."""

import pytest

from recipes.errors import ConfigError
from recipes.interop.layers import check_choice, read_layer


def test_a_layer_is_a_number_last_or_mean() -> None:
    assert [read_layer(text) for text in ("3", "0", "-1", "last", "mean")] == [3, 0, -1, "last", "mean"]
    for text in ("x", "", "1.5", "--1x"):
        with pytest.raises(ConfigError, match=f"^--layer {text}: must be a number of a block, last or mean$"):
            read_layer(text)


@pytest.mark.parametrize("layer", [0, 4, "last", "mean"])
def test_the_input_every_block_and_their_mean_may_be_named(layer) -> None:  # type: ignore[no-untyped-def]
    check_choice(layer, "cls", 4, "<s>")


@pytest.mark.parametrize(
    ("layer", "pool", "cls_name", "complaint"),
    [
        (5, "mean", "<s>", "layer 5: the model has 4 blocks; name 0 to 4, last or mean"),
        (-1, "mean", "<s>", "layer -1: the model has 4 blocks"),
        ("first", "mean", "<s>", "layer 'first': the model has"),
        (True, "mean", "<s>", "layer True: the model has"),
        (1, "max", "<s>", "pool max: must be one of mean, cls, none"),
        (1, "cls", None, "pool cls: this modality has no token for the whole sample; use mean or none"),
    ],
)
def test_what_a_network_has_not_is_refused(layer, pool: str, cls_name: str | None, complaint: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=f"^{complaint}"):
        check_choice(layer, pool, 4, cls_name)
