"""The classification probe: what do frozen, mean-pooled features know of an example's class? Linear (ridge) and k-NN, the layer chosen
on validation, always beside the same network at random initialisation. The same for every modality.

Shapes: B batch, S sequence, D features, N examples.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.batch import Batch
from model.trunk import Trunk
from recipes.config import Recipe
from recipes.data.labelled import Labelled
from recipes.errors import ConfigError, MissingSplit
from recipes.finetune.neighbours import best_neighbours
from recipes.finetune.ridge import Score, Split, best_ridge
from recipes.finetune.trunk import Source, build_trunk, load_trunk
from recipes.modalities.registry import modality_of

TEST_SPLITS = ("test", "valid")
TEST_SHARE = 0.25
"""Of data that come without a test split."""
SEED = 0
CLASSIFIERS: dict[str, Callable[[Split, Split, int], Score]] = {"linear": best_ridge, "knn": best_neighbours}


@dataclass(frozen=True)
class ClassifyResult:
    """Accuracy of each classifier on the pre-trained and on the random network, and of always saying the most frequent class."""

    trained: dict[str, Score]
    random: dict[str, Score]
    majority: float
    num_classes: int
    num_test: int
    split: str

    def to_json(self, source: Source) -> dict[str, Any]:
        """The content of results.json; `mean` is the linear probe's."""
        linear = self.trained["linear"]
        return {
            "task": "classify",
            "metric": "accuracy",
            "split": self.split,
            "mean": linear.accuracy,
            "std": linear.standard_error,
            "values": [linear.accuracy],
            "from": str(source.checkpoint),
            "majority": self.majority,
            "num_classes": self.num_classes,
            "num_test": self.num_test,
            "probes": {
                name: {"accuracy": trained.accuracy, "layer": trained.layer, "random_init": self.random[name].accuracy}
                for name, trained in self.trained.items()
            },
        }

    def lines(self, recipe: Recipe) -> list[str]:
        """What the command prints."""
        printed = [f"classify, {self.num_classes} classes, {self.num_test} examples of split {self.split}, {recipe.name}:"]
        for name, trained in self.trained.items():
            random = self.random[name]
            printed.append(
                f"  {name:6}  pre-trained {trained.accuracy:.3f} +- {trained.standard_error:.3f} (layer {trained.layer + 1}), "
                f"random init {random.accuracy:.3f} +- {random.standard_error:.3f} (layer {random.layer + 1}), "
                f"gain {trained.accuracy - random.accuracy:+.3f}"
            )
        return [*printed, f"  majority {self.majority:.3f}"]


def classify_probe(source: Source, path: str | None, label_column: str, device: torch.device) -> ClassifyResult:
    """Run the probe. Raises: ConfigError where the data have no labels or one class only."""
    recipe = source.recipe
    train, test, split = open_splits(recipe, path, label_column, source.prepared)
    classes = {name: number for number, name in enumerate(sorted(set(train[0].labels)))}
    if len(classes) < 2:
        raise ConfigError(f"the data have one class only, {next(iter(classes))!r}; give data with two or more")
    trained: dict[str, Score] = {}
    random: dict[str, Score] = {}
    for scores, trunk in ((trained, load_trunk(source, device)), (random, build_trunk(recipe, device))):
        fit, held = (collect(trunk, *part, classes) for part in (train, test))
        scores |= {name: classify(fit, held, len(classes)) for name, classify in CLASSIFIERS.items()}
    most, _ = Counter(fit.labels_N.tolist()).most_common(1)[0]
    majority = float((held.labels_N == most).double().mean())
    return ClassifyResult(trained, random, majority, len(classes), len(held.labels_N), split)


def open_splits(
    recipe: Recipe, path: str | None, label_column: str, prepared: Path
) -> tuple[tuple[Labelled, list[int]], tuple[Labelled, list[int]], str]:
    """Examples to fit on, examples to test on (each with their numbers, shuffled once and for all) and the test split's name.
    Where the data have neither test nor validation, a quarter of train is held back."""
    rng = np.random.Generator(np.random.Philox(SEED))
    modality = modality_of(recipe.modality, recipe.name)
    train = modality.open_labelled(recipe, path, "train", label_column, prepared)
    order = rng.permutation(len(train.labels)).tolist()
    for split in TEST_SPLITS:
        try:
            test = modality.open_labelled(recipe, path, split, label_column, prepared)
        except MissingSplit:
            continue
        known = set(train.labels)
        return (train, order), (test, [i for i, name in enumerate(test.labels) if name in known]), split
    cut = int(len(order) * (1 - TEST_SHARE))
    return (train, order[:cut]), (train, order[cut:]), f"held-back {TEST_SHARE:.0%} of train"


@torch.no_grad()
def collect(trunk: Trunk, data: Labelled, indices: list[int], classes: dict[str, int]) -> Split:
    """Mean over the real positions of every layer's output, with class numbers."""
    device = next(trunk.parameters()).device
    per_layer: list[list[Tensor]] = []
    for batch in data.batches(indices):
        batch = batch.to(device)
        layers = trunk(batch.inputs, None, batch.padding_mask_BS, keep_from=0).layers
        per_layer.append([pooled(layer.block_SBD.transpose(0, 1), batch) for layer in layers])
    labels_N = torch.tensor([classes[data.labels[index]] for index in indices])
    return Split([torch.cat(layer) for layer in zip(*per_layer, strict=True)], labels_N)


def pooled(x_BSD: Tensor, batch: Batch) -> Tensor:
    """Mean (B, D) over the positions that are not padding, in float32 on the host."""
    x_BSD = x_BSD.float()
    if batch.padding_mask_BS is None:
        return x_BSD.mean(1).cpu()
    keep_BS1 = (~batch.padding_mask_BS).unsqueeze(-1)
    return ((x_BSD * keep_BS1).sum(1) / keep_BS1.sum(1)).cpu()
