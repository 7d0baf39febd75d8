"""Gathers come after the writes into the shards that they read: DeepSpeed's stream is made to wait for the one that wrote. A CPU has no
streams, so one that takes notes stands in; benchmarks/accelerator_check.py asks a real one."""

from types import SimpleNamespace
from typing import Any

from torch import Tensor

from tests.distributed import run_distributed
from tests.recipes.engine.test_build import NO_THRESHOLD, random_batch, resolved


def note_waits() -> dict[str, Any]:
    """On a rank: for every way to write shards, which engine's stream was told to wait for which, and whether all was written by then."""
    from model.parallel import init_parallel
    from recipes.engine import shards
    from recipes.engine.update import backward, step
    from recipes.objectives.registry import build_objective

    recipe, config = resolved(1, 1, NO_THRESHOLD, {"bf16": {"enabled": True}}, "optim.lr=0.1")
    objective = build_objective(recipe, config, init_parallel(1, "cpu"))
    engines = {"student": objective.student, "teacher": objective.teacher}
    assert [shards.gather_stream(engine) for engine in engines.values()] == [None, None], "a CPU has none"
    waits: list[tuple[str, str, list[Tensor]]] = []

    def held(name: str) -> list[Tensor]:
        return [shards.compute_shard(parameter).clone() for _, parameter in shards.named_parameters(engines[name])]

    def stream_of(name: str) -> Any:
        return SimpleNamespace(wait_stream=lambda other: waits.append((name, other, held(name))))

    for name, engine in engines.items():
        offload = getattr(engine.optimizer, "parameter_offload", engine.optimizer)
        offload._DeepSpeedZeRoOffload__allgather_stream = stream_of(name)
    shards.get_accelerator = lambda: SimpleNamespace(current_stream=lambda: "current")  # this process ends with the test

    def train() -> None:
        backward(objective.student, objective.forward(random_batch(recipe, 8, 3), 64).loss, 64, 1)
        step(objective.student)

    found: dict[str, Any] = {}
    writers = {
        "optimizer": train,
        "EMA": lambda: objective.after_step(1),
        "restart": objective.restart,
        "load of the teacher": objective.after_load,
        "load of the student": lambda: shards.refresh_compute_weights(objective.student),
    }
    for writer, write in writers.items():
        waits.clear()
        write()
        found[writer] = [(name, other, all(map(Tensor.equal, seen, held(name)))) for name, other, seen in waits]
    return found


def test_the_gathers_stream_waits_for_whatever_has_written_the_shards() -> None:
    (found,) = run_distributed(note_waits, 1)
    assert found == {
        "optimizer": [("student", "current", True)],
        "EMA": [("teacher", "current", True)],
        "restart": [("teacher", "current", True)],
        "load of the teacher": [("teacher", "current", True)],
        "load of the student": [("student", "current", True)],
    }
