"""Which probe runs while a network is pre-trained, from the recipe's section `eval`. launch/ hands it to the loop. Torch-free until the
data are opened. The data are in probe_samples.py, the probe is in training_probe.py."""

from pathlib import Path

from recipes.config import Recipe
from recipes.data.folder import resolve_data_path
from recipes.errors import ConfigError
from recipes.eval_config import EvalConfig
from recipes.modalities.registry import modality_of
from recipes.train.probe import Probe, ProbePlace

SETTING = "--set eval.probe_data"
REFERENCE = "reference"


class FrozenFeatures:
    """Opens the probe of frozen features: cloze, classification, or the targets of a reference. Implements ProbeSource."""

    def check(self, recipe: Recipe) -> str:
        """Check the task and the path of its data. Return `TASK on DATA every N updates`; "" without a probe. Raises: ConfigError."""
        config = recipe.eval
        if not config.probe_steps:
            return ""
        task, probes = task_of(recipe), modality_of(recipe.modality, recipe.name).probes
        if task == REFERENCE:
            return self._check_reference(config)
        if task not in probes and not config.probe_task:
            raise ConfigError(
                f"eval.probe_steps {config.probe_steps}: a probe of {recipe.modality} needs labelled data; name it with {SETTING}"
            )
        if task not in probes:
            raise ConfigError(f"eval.probe_task {task} is not for {recipe.modality}; use {' or '.join((*probes, REFERENCE))}")
        path = config.probe_data
        if task == "classify" and path is None:
            raise ConfigError(f"eval.probe_task classify needs labelled data; name it with {SETTING}")
        if path and resolve_data_path(path) is None and (Path(path).is_absolute() or path.startswith(".")):
            raise ConfigError(f"eval.probe_data {path}: no such file or folder; correct {SETTING}")
        return f"{task} on {path or 'the held-out data of the run'}, every {config.probe_steps} updates"

    def _check_reference(self, config: EvalConfig) -> str:
        if config.probe_reference is None:
            raise ConfigError(
                "eval.probe_task reference needs a run whose teacher is the reference; name it with --set eval.probe_reference"
            )
        if not Path(config.probe_reference).is_dir():
            raise ConfigError(f"eval.probe_reference {config.probe_reference}: no such folder; name a run dir or a checkpoint folder")
        return f"explained variance of the targets of {config.probe_reference}, every {config.probe_steps} updates"

    def open(self, recipe: Recipe, place: ProbePlace) -> Probe:
        """Read this rank's samples of the probe. A collective. Raises: ConfigError."""
        from recipes.finetune.probe_samples import open_classify, open_cloze
        from recipes.finetune.reference_probe import open_reference
        from recipes.finetune.training_probe import TrainingProbe

        samples = {"classify": open_classify, "cloze": open_cloze, REFERENCE: open_reference}[task_of(recipe)](recipe, place)
        return TrainingProbe(samples, place.world)


def task_of(recipe: Recipe) -> str:
    """Return the task of the probe: eval.probe_task, or else classify if there are data for it, or else cloze."""
    return recipe.eval.probe_task or ("classify" if recipe.eval.probe_data else "cloze")
