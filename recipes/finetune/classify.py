"""The classification probe: how well do frozen, mean-pooled features predict the class of an example? It fits a linear (ridge) and a k-NN
classifier and chooses the layer on validation data. The same network at random initialisation is always scored too. The probe is the
same for every modality.

Shapes: B batch, S sequence, D features, N examples.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.batch import Batch
from model.task_heads import mean_over_positions
from model.trunk import Trunk
from recipes.data.labelled import Labelled
from recipes.data.media import BadItem, format_bad_items
from recipes.data.progress import ItemProgress
from recipes.errors import ConfigError
from recipes.finetune.neighbours import best_neighbours
from recipes.finetune.ridge import LabelledFeatures, best_ridge, validation_cut
from recipes.finetune.score import Score, layer_lines, scores_to_json
from recipes.finetune.splits import Examples, Log, open_splits
from recipes.interop.trunk import TrainedRun, build_trunk, load_trunk

CLASSIFIERS: dict[str, Callable[[LabelledFeatures, LabelledFeatures, int], Score]] = {"linear": best_ridge, "knn": best_neighbours}


@dataclass(frozen=True)
class ClassifyResult:
    """Result of a classification probe: the accuracies on the test examples."""

    trained: dict[str, Score]
    """Score of each classifier, linear and knn, on the features of the pre-trained network."""
    random: dict[str, Score]
    """The same for the network at random initialisation."""
    majority: float
    """Accuracy if the most frequent class of the training examples is always predicted."""
    num_classes: int
    num_test: int
    split: str
    bad: tuple[BadItem, ...] = ()
    """Examples that were left out because they cannot be decoded."""

    def to_json(self, probed: TrainedRun) -> dict[str, Any]:
        """Return the fields of this result in results.json."""
        return {
            **scores_to_json(self.trained, self.random),
            "from": str(probed.checkpoint),
            "majority": self.majority,
            "num_classes": self.num_classes,
            "num_test": self.num_test,
            "num_bad": len(self.bad),
            "probes": {
                name: {"accuracy": trained.accuracy, "layer": trained.layer, "random_init": self.random[name].accuracy}
                for name, trained in self.trained.items()
            },
        }

    def lines(self, probed: TrainedRun) -> list[str]:
        """Return the lines that the probe command prints."""
        examples = f"{self.num_classes} classes, {self.num_test} examples of split {self.split}"
        printed = [f"classify, {examples}, {probed.recipe.name}, {probed.weights}:", *layer_lines(self.trained, self.random)]
        for name, trained in self.trained.items():
            random = self.random[name]
            printed.append(
                f"  {name:6}  pre-trained {trained.accuracy:.3f} +- {trained.standard_error:.3f} (layer {trained.layer}), "
                f"random init {random.accuracy:.3f} +- {random.standard_error:.3f} (layer {random.layer}), "
                f"gain {trained.accuracy - random.accuracy:+.3f}"
            )
        printed.append(f"  majority {self.majority:.3f}")
        if self.bad:
            printed.append(f"left out, cannot be decoded: {format_bad_items(self.bad)}")
        return printed


def classify_probe(probed: TrainedRun, path: str | None, label_column: str, device: torch.device, log: Log = print) -> ClassifyResult:
    """Fit both classifiers on frozen features of the labelled data at `path` (None: the shipped sample), for the pre-trained and for a
    random network, and return their test accuracies.

    Raises: ConfigError if the data have no labels or one class only, or if too few examples can be decoded.
    """
    parts = open_splits(probed.recipe, path, label_column, probed.prepared, log)
    classes = number_classes(parts)
    bad: dict[str, BadItem] = {}
    trained: dict[str, Score] = {}
    random: dict[str, Score] = {}
    for scores, trunk in ((trained, load_trunk(probed, device)), (random, build_trunk(probed.recipe, device))):
        network = "pre-trained" if scores is trained else "random"
        fit, held = (collect(trunk, part, classes, bad, part.progress(f"features of the {network} network", log)) for part in parts)
        check_enough(parts[0].data, len(fit.labels_N), len(held.labels_N))
        scores |= {name: classify(fit, held, len(classes)) for name, classify in CLASSIFIERS.items()}
    most, _ = Counter(fit.labels_N.tolist()).most_common(1)[0]
    majority = float((held.labels_N == most).double().mean())
    return ClassifyResult(trained, random, majority, len(classes), len(held.labels_N), parts[1].name, tuple(bad.values()))


def number_classes(parts: tuple[Examples, Examples]) -> dict[str, int]:
    """Return the number of each class in both sets of examples, in the order of their names."""
    return {name: number for number, name in enumerate(sorted({name for part in parts for name in part.classes}))}


def check_enough(data: Labelled, num_fit: int, num_test: int) -> None:
    """Check the numbers of examples. Raises: ConfigError if they are too few to fit, to choose a layer and to test."""
    if validation_cut(num_fit) < 1 or num_test < 1:
        raise ConfigError(f"{data.name}: {num_fit} examples to fit on and {num_test} to test on are too few; give more labelled data")


@torch.no_grad()
def collect(trunk: Trunk, part: Examples, classes: dict[str, int], bad: dict[str, BadItem], progress: ItemProgress) -> LabelledFeatures:
    """Return the features and the class number of each example. Features are the output of each layer, averaged over the positions that are
    not padding. `classes`: class name -> number. Examples that cannot be decoded are left out and added to `bad`. Raises: ConfigError if
    there are too many of them."""
    device = next(trunk.parameters()).device
    per_layer: list[list[Tensor]] = []
    numbers: list[int] = []
    for indices, batch in part.data.batches(part.indices, bad):
        batch = batch.to(device)
        layers = trunk(batch.inputs, None, batch.padding_mask_BS, keep_from=0).layers
        per_layer.append([pooled(layer.block_SBD.transpose(0, 1), batch) for layer in layers])
        numbers += indices
        progress.add(len(indices))
    progress.close()
    labels_N = torch.tensor([classes[str(part.data.labels[number])] for number in numbers])
    return LabelledFeatures([torch.cat(layer) for layer in zip(*per_layer, strict=True)], labels_N)


def pooled(x_BSD: Tensor, batch: Batch) -> Tensor:
    """Return the mean of the outputs (B, S, D) over the positions that are not padding. Shapes: float32 (B, D), on the CPU."""
    return mean_over_positions(x_BSD.float(), batch.padding_mask_BS).cpu()
