"""data2vec's update in plain torch, as a baseline: the same modules, loss, clipping, fused AdamW and EMA, without DeepSpeed."""

import time
from collections.abc import Callable

import torch

from model.dropout import DropoutStream
from model.init import Init
from model.parallel import Parallel
from model.student import Student
from model.teacher import Teacher
from recipes.config import Recipe
from recipes.modalities.registry import MODALITIES
from recipes.objectives.data2vec import regress


class PlainStep:
    """Student, teacher and optimizer, all in one process."""

    def __init__(
        self, recipe: Recipe, parallel: Parallel, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        """`dtype` is that of weights, moments and EMA. There are no float32 master weights."""
        frontend = MODALITIES[recipe.modality].build_frontend(recipe)
        self._recipe = recipe
        self._student = Student(recipe.model, frontend, Init(1), parallel, DropoutStream()).to(device, dtype)
        self._teacher = Teacher(recipe.model, recipe.teacher, frontend, Init(1), parallel).to(device, dtype).eval()
        self._optimizer = torch.optim.AdamW(self._student.parameters(), lr=recipe.optim.lr, fused=True)
        student = dict(self._student.named_parameters())
        self._averaged = [(shadow, student[name]) for name, shadow in self._teacher.named_parameters()]

    def run(self, batch, *, ema: bool, clock: Callable[[], float] = time.perf_counter) -> float:
        """Run one update and return its seconds by `clock`. `ema`: update the teacher too."""
        start = clock()
        outcome = regress(self._student, self._teacher, batch, self._recipe.loss)
        (outcome.loss / batch.masks.num_masked).backward()
        if self._recipe.optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(self._student.parameters(), self._recipe.optim.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if ema:
            with torch.no_grad():
                shadows, weights = zip(*self._averaged, strict=True)
                torch._foreach_lerp_(shadows, weights, 1e-3)
        return clock() - start
