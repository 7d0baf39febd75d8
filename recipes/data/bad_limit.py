"""How many items of a data set may be undecodable: a share, and a few in any case. Torch-free."""

FEW = 3
"""Of a small set: the share alone would let one bad file end it."""


def most_bad(num_items: int, max_fraction: float) -> int:
    """As many of `num_items` may be bad (data.max_bad_fraction); 0 allows none."""
    return max(FEW, int(max_fraction * num_items)) if max_fraction > 0 else 0
