"""The classification probe: splits, pooling over real positions only, and a network that knows more than a random one scores more."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.batch import Batch
from recipes.errors import ConfigError
from recipes.finetune.classify import TEST_SHARE, classify_probe, collect, open_splits, pooled
from recipes.finetune.labelled import open_labelled
from recipes.finetune.trunk import build_trunk, find_source
from recipes.speech import speech_tiny
from recipes.vision import vision_tiny
from tests.distributed import run_distributed

NUM_IMAGES = 12


def images(folder: Path, count: int = NUM_IMAGES) -> Path:
    """Red and blue pictures."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / ("blue", "red")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 60, (24, 24, 3), dtype=np.uint8)
        pixels[..., 2 * (number % 2 == 0)] += 150
        Image.fromarray(pixels).save(path)
    return folder


def test_data_without_a_test_split_give_a_quarter_of_train(tmp_path: Path) -> None:
    (train, fit), (test, held), split = open_splits(vision_tiny(), str(images(tmp_path)), "label", Path())
    assert train is test and sorted(fit + held) == list(range(NUM_IMAGES)) and len(held) == NUM_IMAGES * TEST_SHARE
    assert split.startswith("held-back") and fit != sorted(fit), "shuffled: files come class by class"


def test_a_test_split_is_used_where_there_is_one(tmp_path: Path) -> None:
    images(tmp_path / "train")
    images(tmp_path / "validation", 4)
    (_, fit), (test, held), split = open_splits(vision_tiny(), str(tmp_path), "label", Path())
    assert (len(fit), len(test.labels), held, split) == (NUM_IMAGES, 4, [0, 1, 2, 3], "valid")


def test_pooling_is_the_mean_over_real_positions() -> None:
    x_BSD = torch.arange(12.0).view(2, 3, 2)
    padding = torch.tensor([[False, False, True], [False, False, False]])
    mask = torch.zeros(2, 3, dtype=torch.bool)
    batch = Batch(mask, mask, mask, torch.empty(0, dtype=torch.int64), padding, padding, 5)
    assert pooled(x_BSD, batch).tolist() == [[1.0, 2.0], [8.0, 9.0]]


def features_by_batch(folder: str) -> list[float]:
    """Differences of clips' features between a pass over several of unequal length and one over each alone."""
    recipe = speech_tiny()
    data = open_labelled(recipe, folder, "train", "label", Path())
    trunk = build_trunk(recipe, torch.device("cpu"))
    classes = {name: number for number, name in enumerate(sorted(set(data.labels)))}
    together = collect(trunk, data, [0, 1, 2], classes)
    alone = [collect(trunk, data, [number], classes) for number in range(3)]
    return [float((layer[n] - alone[n].layers[number][0]).abs().max()) for number, layer in enumerate(together.layers) for n in range(3)]


def test_a_clips_features_do_not_depend_on_the_others(tmp_path: Path) -> None:
    import soundfile

    rng = np.random.default_rng(0)
    for number in range(3):
        (tmp_path / f"c{number}").mkdir()
        soundfile.write(tmp_path / f"c{number}" / "a.wav", rng.standard_normal(3000 + 4000 * number) * 0.1, 16_000)
    (differences,) = run_distributed(features_by_batch, 1, str(tmp_path))
    assert max(differences) == 0


def probe(run: str, folder: str) -> dict:
    """results.json of a text run probed on sentences of two vocabularies."""
    source = find_source(Path(run))
    return classify_probe(source, folder, "label", torch.device("cpu")).to_json(source)


def test_sentences_that_share_no_word_are_told_apart(tiny_run: Path, tmp_path: Path) -> None:
    rows = [f"{' '.join(['ba do', 'ki lu'][n % 2] for _ in range(1 + n % 5))},{'xy'[n % 2]}" for n in range(40)]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    (tmp_path / "test.csv").write_text("text,label\n" + "\n".join(rows[:10]) + "\n")
    (result,) = run_distributed(probe, 1, str(tiny_run), str(tmp_path))
    assert (result["task"], result["split"], result["num_classes"], result["num_test"], result["majority"]) == (
        "classify",
        "test",
        2,
        10,
        0.5,
    )
    assert result["mean"] == 1.0 and set(result["probes"]) == {"linear", "knn"} and "random_init" in result["probes"]["knn"]


def test_one_class_is_no_question(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nba,1\ndo,1\n")
    source = find_source(tiny_run)
    with pytest.raises(ConfigError, match="one class only, '1'"):
        classify_probe(source, str(tmp_path), "label", torch.device("cpu"))
