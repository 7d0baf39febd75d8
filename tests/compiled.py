"""Compiles DeepSpeed's CPU Adam where this machine does not have it yet: `python -m tests.compiled`. It takes one to two minutes, which no
test's time limit allows for. `make test` and `make test-slow` do it first. Holds no assertions about the product.
"""

from typing import Any

NUMBERS: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.98), "eps": 1e-6}


def build_cpu_adam_once() -> None:
    """Load DeepSpeed's op, which compiles it if needed."""
    import torch

    from recipes.engine.cpu_adam import build_cpu_adam

    build_cpu_adam([{"params": [torch.zeros(4, requires_grad=True)]}], **NUMBERS)


if __name__ == "__main__":
    build_cpu_adam_once()
