"""The size of a recipe: parameters and bytes per rank. Torch-free arithmetic. Activations: recipes/plan/activations.py. FLOPs:
recipes/plan/flops.py."""

from recipes.config import Recipe
from recipes.ds_config import EngineConfig


def num_parameters(recipe: Recipe) -> int:
    """Return the number of parameters of the network that is trained: front-end, encoder and head."""
    return num_trunk_parameters(recipe) + recipe.objective.num_head_parameters(recipe.model)


def num_trunk_parameters(recipe: Recipe) -> int:
    """Return the number of parameters of front-end and encoder, without the head."""
    return recipe.frontend.num_parameters(recipe.model) + recipe.model.num_block_parameters


def parameter_line(recipe: Recipe) -> str:
    """Return the line that a dry run prints about the numbers of parameters."""
    trunk, total = num_trunk_parameters(recipe), num_parameters(recipe)
    teacher = "; the teacher is a trunk" if recipe.objective.num_teachers else ""
    return f"parameters: {total:,} (trunk {trunk:,}, head {total - trunk:,}{teacher})"


def state_bytes(recipe: Recipe, config: EngineConfig) -> dict[str, int]:
    """Return name -> bytes of it that each rank holds, for parameters, float32 weights, gradients, moments and the teacher's weights.
    The bytes of the whole model are divided by the number of ranks that share a copy, and rounded up."""
    width = 4 if config.precision == "fp32" else 2
    summed = {"fp32": 4, None: width}.get(config.deepspeed.get("data_types", {}).get("grad_accum_dtype"), 2)
    is_shared = width == 4 and not config.offloads_optimizer  # recipes/engine/overrides.py, avoid_copies
    shards = config.batch.shard_size * config.batch.tp_size
    student, trunk = num_parameters(recipe), num_trunk_parameters(recipe)
    sizes = {
        "parameters": student * width,
        "master weights": 0 if is_shared else student * 4,
        "gradients": student * summed,
        "moments": student * 8,
        "teacher": recipe.objective.num_teachers * trunk * width,
        # in fp32 the shadow is the teacher's own weights
        "EMA shadow": 0 if width == 4 else recipe.objective.num_teachers * trunk * 4,
    }
    return {name: -(-size // shards) for name, size in sizes.items()}
