"""The matrix products of linear layers: forward and both products of the backward, by torch's own library or by oneDNN.

torch's float32 products on a CPU go through MKL, which reaches half of what some AMD processors can do. oneDNN computes the same sums, in
float32 too, in another order. The gradient of a weight is a product of a transposed matrix, which torch copies before oneDNN reads it.
Which library a run uses is decided in recipes/engine/products.py.

Shapes: N rows, I inputs, O outputs.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ProductLibrary


class HasProducts(nn.Module):
    """A module whose products are computed by the library `products`."""

    products: ProductLibrary = "mm"


class Linear(HasProducts, nn.Linear):
    """A linear layer that every tensor-parallel rank holds whole."""

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b. Shapes: (..., I) -> (..., O)."""
        return linear(input, self.weight, self.bias, self.products)


def use_products(module: nn.Module, products: ProductLibrary) -> None:
    """Let all layers of `module` compute their products with this library."""
    for part in module.modules():
        if isinstance(part, HasProducts):
            part.products = products


def for_weights(products: ProductLibrary) -> ProductLibrary:
    """Return the library of the products for the weights' gradients, if the others are computed by `products`."""
    return "mm" if products == "mixed" else products


def linear(
    x_I: Tensor, weight_OI: Tensor, bias_O: Tensor | None, products: ProductLibrary, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Return x W^T + b. Shapes: (..., I) -> (..., O). Only float32 tensors on a CPU go to oneDNN when it is named; torch's own product
    uses it already for 16-bit ones. `group`: see ChosenLinear."""
    return ChosenLinear.apply(x_I, weight_OI, bias_O, products if fits_onednn(x_I) else "mm", group)


def fits_onednn(x: Tensor) -> bool:
    """True if `x` is of the kind for which oneDNN's products are meant: float32 on a CPU, not empty."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0


def product(a_NI: Tensor, b_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return A B^T (+ bias) by oneDNN. Transposed matrices are read where they are; views of larger matrices are copied first. Shapes:
    (N, I), (O, I) -> (N, O)."""
    return torch.ops.mkldnn._linear_pointwise(_packed(a_NI), _packed(b_OI), bias_O, "none", [], "")


def _packed(matrix: Tensor) -> Tensor:
    # For a transposed view of a larger matrix oneDNN has only its reference kernel, which takes a thousand times as long.
    return matrix if matrix.is_contiguous() or (matrix.dim() == 2 and matrix.t().is_contiguous()) else matrix.contiguous()


def add_product(out_NO: Tensor, a_NI: Tensor, b_OI: Tensor, products: ProductLibrary) -> None:
    """Add A B^T to `out_NO` in place. All three may be views of larger matrices. `out_NO` may have a wider type than A and B; the
    sum is then not rounded to theirs. Shapes: (N, I), (O, I) -> (N, O)."""
    if out_NO.dtype != a_NI.dtype:
        out_NO += a_NI @ b_OI.t()
    elif products == "mm" or not fits_onednn(a_NI):
        torch.addmm(out_NO, a_NI, b_OI.t(), out=out_NO)
    else:
        out_NO.add_(product(a_NI, b_OI))


class ChosenLinear(torch.autograd.Function):
    """x W^T + b with products by the library `products`. `group`: the tensor-parallel group over which the gradient of x is added up,
    while the gradient of W is computed; None: the gradient of x is complete.

    The backward reads W anew. torch's linear keeps a view of it from the forward on, so that weights which ZeRO-3 has gathered would stay
    in memory until the backward.
    """

    @staticmethod
    def forward(
        ctx: Any, x_I: Tensor, weight_OI: Tensor, bias_O: Tensor | None, products: ProductLibrary, group: dist.ProcessGroup | None
    ) -> Tensor:
        """Return the output. Shapes: (..., I) -> (..., O)."""
        ctx.save_for_backward(x_I, weight_OI)
        ctx.has_bias, ctx.products, ctx.group = bias_O is not None, products, group
        return F.linear(x_I, weight_OI, bias_O) if products == "mm" else product(x_I, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, W and b."""
        (gradient_O,) = gradients
        x_I, weight_OI = ctx.saved_tensors
        gradient_NO = gradient_O.reshape(-1, gradient_O.shape[-1])
        x_gradient, weight_gradient, adding = None, None, None
        if ctx.needs_input_grad[0]:
            x_gradient = gradient_NO @ weight_OI if ctx.products == "mm" else product(gradient_NO, weight_OI.t())
            x_gradient = x_gradient.view(x_I.shape)
            adding = dist.all_reduce(x_gradient, group=ctx.group, async_op=True) if ctx.group else None
        if ctx.needs_input_grad[1]:
            x_NI = x_I.reshape(-1, x_I.shape[-1])
            weight_gradient = product(gradient_NO.t(), x_NI.t()) if for_weights(ctx.products) == "onednn" else gradient_NO.t() @ x_NI
        bias_gradient = gradient_NO.sum(0) if ctx.has_bias else None
        if adding:
            adding.wait()
        return x_gradient, weight_gradient, bias_gradient, None, None
