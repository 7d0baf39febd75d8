"""An update in plain torch, as a baseline: the same modules, loss, clipping and fused AdamW (in pre-training also the EMA), without
DeepSpeed."""

import time
from collections.abc import Callable
from typing import Any

import torch

from model.config import ProductLibrary
from model.dropout import DropoutStream
from model.init import Init
from model.parallel import Parallel
from model.products import use_products
from model.student import Student
from model.teacher import Teacher
from recipes.config import Recipe
from recipes.modalities.registry import MODALITIES
from recipes.objectives.data2vec import regress
from recipes.objectives.registry import objective_class
from recipes.objectives.supervised import network_builder


class PlainStep:
    """Student, teacher and optimizer of a recipe in plain torch, all in one process."""

    def __init__(
        self, recipe: Recipe, parallel: Parallel, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        """Build the networks on `device`. `dtype`: that of weights, moments and EMA; there are no float32 master weights."""
        frontend = MODALITIES[recipe.modality].build_frontend(recipe)
        self._recipe = recipe
        self.student = Student(recipe.model, frontend, Init(1), parallel, DropoutStream()).to(device, dtype)
        self.teacher = Teacher(recipe.model, recipe.teacher, frontend, Init(1), parallel).to(device, dtype).eval()
        self.networks = (self.student, self.teacher)
        self._optimizer = torch.optim.AdamW(self.student.parameters(), lr=recipe.optim.lr, fused=True)
        student = dict(self.student.named_parameters())
        self._averaged = [(shadow, student[name]) for name, shadow in self.teacher.named_parameters()]

    def run(self, batch, *, ema: bool, clock: Callable[[], float] = time.perf_counter) -> float:
        """Run one update on `batch` and return its seconds by `clock`. `ema`: also move the teacher towards the student."""
        start = clock()
        outcome = regress(self.student, self.teacher, batch, self._recipe.loss)
        (outcome.loss / batch.masks.num_masked).backward()
        if self._recipe.optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), self._recipe.optim.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if ema:
            with torch.no_grad():
                shadows, weights = zip(*self._averaged, strict=True)
                torch._foreach_lerp_(shadows, weights, 1e-3)
        return clock() - start


class PlainTaskStep:
    """The network of a supervised task and its optimizer in plain torch, all in one process."""

    def __init__(
        self, recipe: Recipe, parallel: Parallel, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        """Build the network on `device`. `dtype`: that of weights and moments; there are no float32 master weights."""
        self._recipe, self._task = recipe, objective_class(recipe.objective.kind).make_task(recipe.objective)
        self._network = network_builder(recipe)(parallel=parallel, stream=DropoutStream()).to(device, dtype)
        self.networks = (self._network,)
        optim = recipe.optim
        self._optimizer = torch.optim.AdamW(self._network.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, fused=True)

    def run(self, batch, *, ema: bool = False, clock: Callable[[], float] = time.perf_counter) -> float:
        """Run one update on `batch` and return its seconds by `clock`. `ema` is ignored: there is no teacher."""
        start = clock()
        self._task.losses(self._network(batch), batch).mean().backward()
        if self._recipe.optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._recipe.optim.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return clock() - start


def plain_step_of(recipe: Recipe, parallel: Parallel, products: ProductLibrary = "mm", **where: Any) -> PlainStep | PlainTaskStep:
    """Return the baseline of the recipe's objective. `products`: the library of its matrix products. `where`: device and dtype."""
    step = (PlainTaskStep if recipe.finetune.task else PlainStep)(recipe, parallel, **where)
    for network in step.networks:
        use_products(network, products)
    return step
