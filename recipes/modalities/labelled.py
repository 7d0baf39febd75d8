"""What labelled data of every modality have in common: the splits of a run, and the settings that follow from them. torch is imported
only in methods that need it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.errors import ConfigError
from recipes.settings import is_given

if TYPE_CHECKING:
    from recipes.data.loader import Dataset

LENGTHS = ("run.max_steps", "optim.schedule_steps", "optim.warmup_steps")
"""Settings that follow from finetune.epochs, and that cannot be set beside it."""


class LabelledSplits:
    """The methods of LabelledSource (base.py) that are the same in all modalities."""

    def check(self, recipe: Any) -> None:
        """Check that the length of the run is given once, in epochs or in updates. Raises: ConfigError if it is not."""
        if not recipe.finetune.epochs and not is_given(recipe, "run.max_steps"):
            raise ConfigError("finetune.epochs is 0, and run.max_steps is not set; --set run.max_steps=N counts updates")
        for name in LENGTHS if recipe.finetune.epochs else ():
            if is_given(recipe, name):
                raise ConfigError(
                    f"{name} is set, and finetune.epochs {recipe.finetune.epochs:g} determines it; --set finetune.epochs=0 counts updates, "
                    "finetune.warmup_share is the share that warms up"
                )

    def open_data(self, recipe: Any, prepared: Path) -> "tuple[Dataset, Dataset]":
        """Return (training samples, validation samples) of a prepared folder. Raises: ConfigError if it is damaged."""
        from recipes.data.labelled_folder import TRAIN, VALID

        return self.open_split(recipe, prepared, TRAIN), self.open_split(recipe, prepared, VALID)

    def open_split(self, recipe: Any, prepared: Path, split: str) -> "Dataset":
        """Return the samples of one split. Each modality has its own."""
        raise NotImplementedError

    def values(self, recipe: Any, prepared: Path) -> Mapping[str, Any]:
        """Return the settings that follow from the data."""
        return values_of_labelled(recipe, prepared)


def values_of_labelled(recipe: Any, prepared: Path) -> dict[str, Any]:
    """Return, by dotted names, the settings that follow from the prepared labelled data: labels or alphabet, the number of updates, of
    warm-up updates, and the updates between evaluations, checkpoints and logged updates, unless they are set."""
    from recipes.data.labelled_folder import TRAIN, load_info

    info, finetune, optim = load_info(prepared), recipe.finetune, recipe.optim
    values = {name: tuple(value) for name, value in info.values.items()}
    per_epoch = max(1, info.counts[TRAIN] // recipe.run.global_batch_size)
    steps = max(1, math.ceil(finetune.epochs * per_epoch)) if finetune.epochs else recipe.run.max_steps
    shares = {"optim.warmup_steps": finetune.warmup_share, "optim.decay_steps": finetune.decay_share}
    every = max(1, min(steps, round(per_epoch / finetune.evals_per_epoch))) if finetune.evals_per_epoch else steps
    lengths = {name: int(share * steps) for name, share in shares.items()} | {"optim.schedule_steps": steps}
    if optim.schedule != "tri_stage":
        lengths["optim.decay_steps"] = 0
    intervals = {"run.eval_steps": every, "run.save_steps": every, "run.log_steps": max(1, min(every, steps // 20))}
    unset = {name: value for name, value in (lengths | intervals).items() if not is_given(recipe, name)}
    return values | ({"run.max_steps": steps} if finetune.epochs else {}) | unset
