"""The student is gathered after the writes of the optimizer or of a load: DeepSpeed's stream waits for the stream that wrote."""

from typing import Any

from tests.distributed import run_distributed
from tests.recipes.engine.streams import waits_after
from tests.recipes.engine.test_build import NO_THRESHOLD, random_batch, resolved


def record_waits() -> dict[str, Any]:
    """Return the waits that the optimizer and a load cause on one rank in bf16, in which shards are rounded copies."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import backward, step
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(1, 1, NO_THRESHOLD, {"bf16": {"enabled": True}}, "optim.lr=0.1")
    objective = build_objective(recipe, config, init_parallel(1, "cpu"))

    def train() -> None:
        backward(objective.student, objective.forward(random_batch(recipe, 8, 3), 64).loss, 64, 1)
        step(objective.student)

    writers = {"optimizer": train, "load": lambda: shards.refresh_compute_weights(objective.student)}
    return waits_after({"student": objective.student}, writers)


def test_the_students_gathers_wait_for_the_optimizer_and_for_a_load() -> None:
    (found,) = run_distributed(record_waits, 1)
    assert found == {"optimizer": [("student", "current", True)], "load": [("student", "current", True)]}
