"""The table of objectives, one line each. An objective outside this repository is named `module:Class` in the kind of its section."""

from collections.abc import Callable
from typing import Any

from model.dropout import DropoutStream
from model.parallel import Parallel
from recipes.config import Recipe
from recipes.ds_config import EngineConfig
from recipes.engine.build import EngineBuilder, OptimizerBuilder
from recipes.objectives.base import Objective
from recipes.objectives.classify import Classify
from recipes.objectives.ctc import Ctc
from recipes.objectives.data2vec import Data2Vec
from recipes.objectives.masked_input import Mlm, Pixels
from recipes.objectives.regress import Regress
from recipes.settings import import_objective

OBJECTIVES: dict[str, type[Objective]] = {one.Config.kind: one for one in (Data2Vec, Mlm, Pixels, Classify, Regress, Ctc)}


def objective_class(kind: str) -> type[Objective]:
    """Return the class of the objective `kind`: a name of this repository's, or `module:Class`. Raises: ConfigError if there is none."""
    if kind in OBJECTIVES:
        return OBJECTIVES[kind]
    return import_objective(kind, "objective.kind")


def build_objective(
    recipe: Recipe,
    config: EngineConfig,
    parallel: Parallel,
    optimizer: OptimizerBuilder | None = None,
    alive: Callable[[], Any] = lambda: None,
) -> Objective:
    """Build the recipe's loss with its networks on DeepSpeed engines. `optimizer`, if given, builds another optimizer than the recipe's.
    `alive` is called after each parameter. A collective."""
    stream = DropoutStream(recipe.run.seed, parallel.dp_rank, parallel.tp_rank)
    builder = EngineBuilder(config, recipe.optim, parallel, stream, optimizer, alive)
    with builder.building():
        return objective_class(recipe.objective.kind)(recipe, builder)
