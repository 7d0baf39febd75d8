"""Partitions a network while it is built, by DeepSpeed's zero.Init. Two private methods of it are used here; all other private state is in
recipes/engine/shards.py."""

from collections.abc import Callable
from typing import Any

import deepspeed
import torch


class OwnParts(deepspeed.zero.Init):
    """DeepSpeed's zero.Init without its broadcast of each parameter from rank 0. Each rank keeps its part of the values that it has
    written itself (model/init.py), so it need not write any others. A parameter is allocated in the engine's dtype; zero.Init would
    allocate and convert a whole float32 tensor first, which takes longer than drawing a part.
    Source: deepspeed 0.19.8, runtime/zero/partition_parameters.py, Init._zero_init_param.
    """

    def __init__(self, alive: Callable[[], Any], **settings: Any) -> None:
        """`alive` is called after each parameter. `settings`: those of zero.Init."""
        super().__init__(**settings)
        self._alive = alive

    def __enter__(self) -> None:
        """Begin to partition the modules that are built."""
        self._default_dtype = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        """End it, also after an error."""
        torch.set_default_dtype(self._default_dtype)
        return super().__exit__(*error)

    def _zero_init_param(self, param: Any) -> None:
        self._convert_to_deepspeed_param(param)
        param.partition()
        self._alive()
