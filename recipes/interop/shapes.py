"""Names and shapes of tensors of modules in a model of another project. No files and no tensors."""

Shapes = dict[str, tuple[int, ...]]
"""Name of a tensor -> its shape."""


def affine(name: str, *shape: int) -> Shapes:
    """Return the weight and the bias of a linear map, a convolution or a norm. `shape`: the weight's; the bias has its first dimension."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def weights_first(shapes: Shapes) -> Shapes:
    """Return the same tensors with all weights before all biases. Then the parts of a fused tensor stand side by side."""
    return dict(sorted(shapes.items(), key=lambda item: item[0].endswith(".bias")))
