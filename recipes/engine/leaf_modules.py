"""Chooses the modules that ZeRO-3 gathers and reduces as a whole, its "leaf modules". A Transformer block as a leaf module costs one hook
and one gather, where its twenty submodules cost one each.

DeepSpeed reduces the gradients of a leaf module when the gradient of its input is complete. If no input needs a gradient, that moment is
before the module's own gradients exist, and DeepSpeed would replace them by zeros. So such a module is never a leaf module.
Source: deepspeed 0.19.8, runtime/zero/stage3.py, create_reduce_and_remove_grad_hooks.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from deepspeed.utils import (
    get_z3_leaf_modules,
    set_z3_leaf_module,
    set_z3_leaf_modules,
    set_z3_leaf_modules_by_name,
    set_z3_leaf_modules_by_suffix,
    z3_leaf_module,
)
from torch import Tensor, nn

from recipes.errors import ConfigError

SETTERS: Mapping[str, Callable[[nn.Module, Sequence[str]], Any]] = {
    "classes": set_z3_leaf_modules,
    "names": set_z3_leaf_modules_by_name,
    "name_suffixes": set_z3_leaf_modules_by_suffix,
}


def set_leaf_modules(
    module: nn.Module, wanted: Mapping[str, Sequence[str]], frozen: Mapping[str, float], *, may_lack: bool = False
) -> None:
    """Make leaf modules of the submodules that the ds_config's section zero_optimization.leaf_module names (`wanted`), except those in
    front of which nothing is trained. `frozen`: name of each parameter -> number of first steps in which it is not trained; infinity:
    never trained. "In front of" is the order in which modules were registered. Call it before the engine is built.

    Raises: ConfigError if a name fits no submodule, unless the network `may_lack` one.
    """
    for kind, name in ((kind, name) for kind, names in wanted.items() for name in names):
        try:
            SETTERS[kind](module, [name])
        except ValueError:
            if may_lack:
                continue
            known = ", ".join(sorted({type(part).__name__ for part in module.modules()}))
            raise ConfigError(
                f"zero_optimization.leaf_module.{kind}: the network has no submodule {name}; take it out of the ds_config, or name "
                f"others (its classes are {known})"
            ) from None
    for _, part in _without_input_gradient(module, frozen):
        set_z3_leaf_module(part, False)


def check_leaf_modules(module: nn.Module, frozen: Mapping[str, float]) -> None:
    """Check the leaf modules that DeepSpeed has chosen itself, when the engine was built, and let each check its input in every forward.
    `frozen`: as in set_leaf_modules(). Raises: ConfigError if nothing is trained in front of one of them."""
    for name, part in _without_input_gradient(module, frozen):
        raise ConfigError(
            f"zero_optimization.stage3_module_granularity_threshold makes a leaf module of {name or type(part).__name__}, and nothing in "
            'front of it is trained; lower the threshold, or write "leaf_module": {"classes": ["Block"]} instead'
        )
    for part in get_z3_leaf_modules(module):
        if any(parameter.requires_grad for parameter in part.parameters()):
            part.register_forward_pre_hook(_check_input, with_kwargs=True)


def _without_input_gradient(module: nn.Module, frozen: Mapping[str, float]) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and module of those leaf modules that are trained, at least later on, when nothing in front of them is trained."""
    for prefix, part in module.named_modules():
        start = f"{prefix}." if prefix else ""
        own = [steps for name, steps in frozen.items() if name.startswith(start)]
        before = takewhile(lambda name, start=start: not name.startswith(start), frozen)  # type: ignore[misc]
        is_trained = any(map(math.isfinite, own))
        if z3_leaf_module(part) and is_trained and not any(frozen[name] <= min(own) for name in before):
            yield prefix, part


def _check_input(part: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Raises: ConfigError if gradients are computed and no input of this leaf module needs one. Whether something in front of it is
    trained does not decide that."""
    if torch.is_grad_enabled() and not any(isinstance(x, Tensor) and x.requires_grad for x in (*inputs, *named.values())):
        raise ConfigError(
            f"zero_optimization.leaf_module: the input of a {type(part).__name__} needs no gradient, so DeepSpeed would drop the gradients "
            'of its weights; name other modules, such as {"classes": ["Block"]}, the Transformer blocks'
        )
