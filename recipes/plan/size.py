"""The size of a recipe: parameters and bytes per rank. Torch-free arithmetic. Activations: recipes/plan/activations.py. FLOPs:
recipes/plan/flops.py."""

from collections.abc import Iterable
from functools import lru_cache

from model.config import EncoderConfig
from model.frontends.config import FrontendConfig
from model.shapes import ParameterShape, count_parameters
from recipes.config import Recipe
from recipes.ds_config import BatchPlan, EngineConfig
from recipes.objective_config import ObjectiveConfig


def num_parameters(recipe: Recipe) -> int:
    """Return the number of parameters of the network that is trained: front-end, encoder and head."""
    return count_parameters(student_parameters(recipe))


def num_trunk_parameters(recipe: Recipe) -> int:
    """Return the number of parameters of front-end and encoder, without the head."""
    return count_parameters(trunk_parameters(recipe))


def student_parameters(recipe: Recipe) -> tuple[ParameterShape, ...]:
    """Return the parameters of the network that is trained, under its names and in its order."""
    return _student(recipe.frontend, recipe.model, recipe.objective)


def trunk_parameters(recipe: Recipe) -> tuple[ParameterShape, ...]:
    """Return the parameters of front-end and encoder, under their names in the network that is trained."""
    return _trunk(recipe.frontend, recipe.model)


@lru_cache(maxsize=64)  # the planner asks thousands of times
def _student(frontend: FrontendConfig, model: EncoderConfig, objective: ObjectiveConfig) -> tuple[ParameterShape, ...]:
    return (*_trunk(frontend, model), *(shape.inside("head") for shape in objective.head_parameters(model, frontend)))


@lru_cache(maxsize=64)
def _trunk(frontend: FrontendConfig, model: EncoderConfig) -> tuple[ParameterShape, ...]:
    front, encoder = frontend.parameters(model), model.parameters
    return (*(shape.inside("trunk.frontend") for shape in front), *(shape.inside("trunk.encoder") for shape in encoder))


def rank_parameters(recipe: Recipe, config: EngineConfig) -> int:
    """Return the parameters of the student with which a tensor-parallel rank computes: its part of what is split, and all of the rest.
    Elements that are not used do not count."""
    tp_size, shapes = config.batch.tp_size, student_parameters(recipe)
    return sum(shape.numel(tp_size) - shape.num_unused // (1 if shape.split_dim is None else tp_size) for shape in shapes)


def trained_parameters(recipe: Recipe) -> list[ParameterShape]:
    """Return the parameters of the student that get a gradient in some update."""
    frozen = tuple(prefix for prefix, steps in recipe.objective.frozen_parameters(recipe).items() if steps is None)
    return [shape for shape in student_parameters(recipe) if not shape.name.startswith(frozen)]


def persistent_parameters(recipe: Recipe, config: EngineConfig) -> list[ParameterShape]:
    """Return the parameters of the student that every rank keeps whole: DeepSpeed's stage3_param_persistence_threshold, by default 100,000
    elements."""
    limit = config.deepspeed["zero_optimization"].get("stage3_param_persistence_threshold", 10**5)
    return [shape for shape in student_parameters(recipe) if shape.numel(config.batch.tp_size) <= limit]


def whole_elements(shapes: Iterable[ParameterShape], batch: BatchPlan) -> int:
    """Return the elements of parameters that one tensor-parallel rank computes with."""
    tp_size = batch.tp_size
    return sum(shape.numel(tp_size) for shape in shapes)


def shard_elements(shapes: Iterable[ParameterShape], batch: BatchPlan) -> int:
    """Return the elements that one rank holds. ZeRO-3 cuts each parameter into equal shards; the last ones are padded."""
    tp_size, shard_size = batch.tp_size, batch.shard_size
    return sum(-(-shape.numel(tp_size) // shard_size) for shape in shapes)


def padded_elements(shapes: Iterable[ParameterShape], batch: BatchPlan) -> int:
    """Return the elements of parameters that are gathered from all their shards, with the padding."""
    return batch.shard_size * shard_elements(shapes, batch)


def teacher_elements(recipe: Recipe, batch: BatchPlan) -> int:
    """Return the elements of all teachers that are gathered from all their shards, with the padding."""
    return recipe.objective.num_teachers * padded_elements(trunk_parameters(recipe), batch)


def parameter_line(recipe: Recipe) -> str:
    """Return the line that a dry run prints about the numbers of parameters."""
    trunk, total = num_trunk_parameters(recipe), num_parameters(recipe)
    teacher = "; the teacher is a trunk" if recipe.objective.num_teachers else ""
    return f"parameters: {total:,} (trunk {trunk:,}, head {total - trunk:,}{teacher})"


def state_bytes(recipe: Recipe, config: EngineConfig) -> dict[str, float]:
    """Return name -> bytes of it that each rank holds, for parameters, float32 weights, gradients, moments and the teacher's weights.
    They are exact: benchmarks/plan_memory.py counts the same."""
    width = 4 if config.precision == "fp32" else 2
    summed = {"fp32": 4, None: width}.get(config.deepspeed.get("data_types", {}).get("grad_accum_dtype"), 2)
    is_shared = width == 4 and not config.offloads_optimizer  # recipes/engine/overrides.py, avoid_copies
    student, trained = shard_elements(student_parameters(recipe), config.batch), shard_elements(trained_parameters(recipe), config.batch)
    teachers = recipe.objective.num_teachers * shard_elements(trunk_parameters(recipe), config.batch)
    return {
        "parameters": student * width,
        "master weights": 0 if is_shared else trained * 4,
        "gradients": trained * summed,
        "gradients of the host's optimizer": trained * 4 * config.offloads_optimizer,
        "moments": trained * 8,
        "teacher": teachers * width,
        # in fp32 the shadow is the teacher's own weights
        "EMA shadow": 0 if width == 4 else teachers * 4,
    }
