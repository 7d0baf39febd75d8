"""The table of the sections of objectives, by the kind that stands in config.json. Torch-free."""

from recipes.masked_config import Data2VecConfig, MlmConfig, PixelsConfig
from recipes.objective_config import ObjectiveConfig
from recipes.supervised_config import ClassifyConfig, CtcConfig, RegressConfig

OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    one.kind: one for one in (Data2VecConfig, MlmConfig, PixelsConfig, ClassifyConfig, RegressConfig, CtcConfig)
}
