"""The teacher's weights are gathered after the EMA or a load has written them: DeepSpeed's stream waits for the writing stream."""

from typing import Any

import torch

from tests.distributed import run_distributed
from tests.recipes.engine.streams import waits_after
from tests.recipes.engine.test_build import NO_THRESHOLD, resolved

QUICK = ("teacher.ema_decay=0.5", "teacher.ema_end_decay=0.5")
"""With these, one EMA step is larger than the rounding to bf16."""


def note_waits() -> dict[str, Any]:
    """Return the waits after each writer, in bf16, where compute shards are rounded copies."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.objectives.data2vec import Data2Vec
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(1, 1, NO_THRESHOLD, {"bf16": {"enabled": True}}, *QUICK)
    objective = build_objective(recipe, config, init_parallel(1, "cpu"))
    assert isinstance(objective, Data2Vec)

    def changed() -> None:
        with torch.no_grad():
            for _, parameter in shards.trained_parameters(objective.student):
                shards.master_shard(parameter).mul_(1.5)

    def load() -> None:
        for shadow in objective.shards()["shadow"].values():
            shadow.mul_(0.5)
        objective.after_load()

    writers = {
        "EMA": lambda: (changed(), objective.after_step(1)),
        "restart": lambda: (changed(), objective.restart()),
        "load": load,
    }
    return waits_after({"student": objective.student, "teacher": objective.teacher}, writers)


def test_the_teachers_gathers_wait_for_the_ema_a_restart_and_a_load() -> None:
    (found,) = run_distributed(note_waits, 1)
    assert found == {writer: [("teacher", "current", True)] for writer in ("EMA", "restart", "load")}
