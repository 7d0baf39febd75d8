"""The cloze probe (a cloze is a text with blanks to fill in). Random tokens of a text are masked. Masked tokens that are frequent words are
the blanks: a ridge classifier predicts the word from the frozen feature at its position. The same network at random initialisation is
always scored too. Text only. The classification probe, for all modalities, is in classify.py.

Shapes: B batch, S sequence, D features, N examples.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.batch import Batch
from model.config import TokenMaskConfig
from model.trunk import Trunk
from recipes.data.progress import ItemProgress
from recipes.data.shards import load_prepared, map_array
from recipes.data.text import TextDataset
from recipes.data.tokenizer import find_tokenizer, is_word
from recipes.errors import ConfigError
from recipes.finetune.ridge import LabelledFeatures, best_ridge
from recipes.finetune.score import Score, layer_lines, scores_to_json
from recipes.interop.trunk import TrainedRun, build_trunk, load_trunk

NUM_WORDS = 200
MASK = TokenMaskConfig(prob=0.15, length=1)  # few blanks, so that most of the context is visible
FIT_SAMPLES, TEST_SAMPLES, BATCH = 3000, 1000, 32
MIN_TEST = 20
"""Minimum number of held-out blanks. With fewer, the standard error of an accuracy is up to 0.1 and more."""
FIT_EPOCH = 1 << 30  # gives masks that no training epoch has
SEED = 0


@dataclass(frozen=True)
class ClozeResult:
    """Result of a cloze probe: how often the word of a blank is predicted correctly."""

    trained: Score
    """Accuracy on the features of the pre-trained network."""
    random: Score
    """Accuracy on the features of the network at random initialisation."""
    majority: float
    """Accuracy if the most frequent word of the blanks that were fitted is always predicted."""
    num_words: int
    num_test: int

    def to_json(self, probed: TrainedRun) -> dict[str, Any]:
        """Return the fields of this result in results.json."""
        return {
            **scores_to_json({"linear": self.trained}, {"linear": self.random}),
            "from": str(probed.checkpoint),
            "majority": self.majority,
            "num_words": self.num_words,
            "num_test": self.num_test,
        }

    def lines(self, probed: TrainedRun) -> list[str]:
        """Return the lines that the probe command prints."""
        trained, random = self.trained, self.random
        return [
            f"cloze, {self.num_words} words, {self.num_test} held-out blanks, {probed.recipe.name}, {probed.weights}:",
            *layer_lines({"linear": trained}, {"linear": random}),
            f"  pre-trained  {trained.accuracy:.3f} +- {trained.standard_error:.3f} (layer {trained.layer})",
            f"  random init  {random.accuracy:.3f} +- {random.standard_error:.3f} (layer {random.layer})",
            f"  majority     {self.majority:.3f}",
            f"  pre-trained / random init = {trained.accuracy / max(random.accuracy, 1e-9):.2f}",
        ]

    @property
    def split(self) -> str:
        """Name of the part of the prepared text that was tested on."""
        return "held-out"


def cloze_probe(probed: TrainedRun, prepared: Path, device: torch.device, log: Callable[[str], None] = print) -> ClozeResult:
    """Fit a classifier of frequent words on frozen features of the prepared text, for the pre-trained and for a random network, and return
    the accuracies on the held-out text. Raises: ConfigError if the prepared text contains too few of these words."""
    recipe: Any = probed.recipe  # a text recipe
    words = frequent_words(prepared)
    classes_V = word_classes(words, recipe.frontend.vocab_size)
    fit_data = TextDataset(prepared, "train", mask=MASK, seed=SEED)
    test_data = TextDataset(prepared, "valid", mask=MASK, seed=SEED)
    scores = []
    for trunk in (load_trunk(probed, device), build_trunk(recipe, device)):
        train = collect(trunk, fit_data, FIT_SAMPLES, FIT_EPOCH, classes_V, log)
        test = collect(trunk, test_data, TEST_SAMPLES, 0, classes_V, log)
        check_enough(len(test.labels_N))
        scores.append(best_ridge(train, test, len(words)))
    counts = torch.bincount(train.labels_N, minlength=len(words))
    majority = float((test.labels_N == counts.argmax()).double().mean())
    return ClozeResult(scores[0], scores[1], majority, len(words), len(test.labels_N))


def check_enough(num_test: int) -> None:
    """Check the number of held-out blanks. Raises: ConfigError if they are too few to test on."""
    if num_test < MIN_TEST:
        raise ConfigError(f"the held-out text has {num_test} blanks to test on, fewer than {MIN_TEST}; give more text with --data")


def frequent_words(prepared: Path) -> np.ndarray:
    """Return the token ids of the 200 (NUM_WORDS) most frequent words of the prepared text that are one token each, most frequent first;
    fewer if it has fewer. Raises: ConfigError if it has fewer than two."""
    meta = load_prepared(prepared)
    counts_V = np.bincount(map_array(prepared / "tokens.bin", meta.dtype), minlength=meta.vocab_size)
    found = is_word(find_tokenizer(prepared))
    is_word_V = np.zeros(len(counts_V), dtype=bool)
    is_word_V[: len(found)] = found  # a sentencepiece model has no `<mask>`
    counts_V[~is_word_V] = 0
    order = np.argsort(-counts_V, kind="stable")[:NUM_WORDS]
    words = order[counts_V[order] > 0]
    if len(words) < 2:
        raise ConfigError(f"{prepared}: {len(words)} whole-word pieces in its text; the cloze probe needs more text or a larger vocabulary")
    return words


def word_classes(words: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return for each token id of the vocabulary its place in `words`, which is its class number, or -1 if it is not one of them."""
    classes_V = np.full(vocab_size, -1)
    classes_V[words] = np.arange(len(words))
    return classes_V


@torch.no_grad()
def collect(
    trunk: Trunk, data: TextDataset, limit: int, epoch: int, classes_V: np.ndarray, log: Callable[[str], None] = print
) -> LabelledFeatures:
    """Read at most `limit` samples, masked as in `epoch`. At each masked position whose token is one of the frequent words, take the
    output of every layer and the word's class number. `classes_V`: for each token id its class number, or -1 if it is not one of the
    words. Raises: ConfigError if there are fewer than two such positions."""
    per_layer: list[list[Tensor]] = []
    labels: list[Tensor] = []
    device = next(trunk.parameters()).device
    progress = ItemProgress("features", min(len(data), limit), unit="samples", log=log)
    for indices in chunks(len(data), limit):
        batch = data.collate([data.example(epoch, i) for i in indices])
        chosen_N, labels_N = find_blanks(batch, classes_V)
        padding = None if batch.padding_mask_BS is None else batch.padding_mask_BS.to(device)
        outputs = trunk(batch.inputs.to(device), None, padding, keep_from=0).layers
        per_layer.append([at_blanks(output.block_SBD.transpose(0, 1), chosen_N) for output in outputs])
        labels.append(labels_N)
        progress.add(len(indices))
    progress.close()
    if not labels or sum(map(len, labels)) < 2:
        raise ConfigError("the held-out text has no frequent word to probe; give more text or raise data.heldout_fraction")
    return LabelledFeatures([torch.cat(layer) for layer in zip(*per_layer, strict=True)], torch.cat(labels))


def find_blanks(batch: Batch, classes_V: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the blanks of a batch on the CPU: their positions, counted over the whole batch, sample after sample, and the class numbers of
    their words. Shapes: two tensors (N,)."""
    classes_BS = torch.from_numpy(classes_V)[batch.clean_inputs]
    chosen_N = ((classes_BS >= 0) & batch.masks.mask_BS).flatten().nonzero()[:, 0]
    return chosen_N, classes_BS.flatten()[chosen_N]


def at_blanks(x_BSD: Tensor, chosen_N: Tensor) -> Tensor:
    """Return the outputs (B, S, D) at the positions that find_blanks() returned. Shapes: float32 (N, D), on the CPU."""
    return x_BSD.reshape(-1, x_BSD.shape[-1])[chosen_N].float().cpu()


def chunks(available: int, limit: int) -> Iterator[list[int]]:
    """Yield the indices of at most `limit` of the `available` samples, spread evenly over them, in chunks of a batch."""
    count = min(available, limit)
    spread = [i * available // count for i in range(count)]
    for start in range(0, count, BATCH):
        yield spread[start : start + BATCH]
