"""The classification probe: splits, features of every block over real positions only, and which network is scored on what."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.batch import Batch, Masks
from recipes.errors import ConfigError
from recipes.finetune.classify import TEST_SHARE, ClassifyResult, classify_probe, collect, open_splits, pooled
from recipes.finetune.neighbours import best_neighbours
from recipes.finetune.ridge import Score, best_ridge
from recipes.finetune.trunk import Source, build_trunk, find_source, load_trunk
from recipes.modalities.registry import MODALITIES
from recipes.speech import speech_tiny
from recipes.text import text_tiny
from recipes.vision import vision_tiny
from tests.distributed import run_distributed
from tests.recipes.finetune.sentences import TEST, TRAIN, write_sentences

CPU = torch.device("cpu")
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
    assert (sorted(fit), len(test.labels), held, split) == (list(range(NUM_IMAGES)), 4, [0, 1, 2, 3], "valid")
    assert fit != sorted(fit), "shuffled: files come class by class, and layers are chosen on the last ones"
    assert open_splits(vision_tiny(), str(tmp_path), "label", Path())[0][1] == fit, "in the same way every time"


def test_classes_that_only_the_test_split_has_are_left_out_of_it_and_validation_is_not_read_beside_it(tmp_path: Path) -> None:
    recipe = replace(text_tiny(), data=replace(text_tiny().data, text_column="sentence"))
    (train, fit), (test, held), split = open_splits(recipe, str(write_sentences(tmp_path)), "kind", Path())
    assert (len(train.labels), len(fit), split) == (sum(TRAIN.values()), sum(TRAIN.values()), "test")
    assert held == list(range(TEST["new"], sum(TEST.values()))) == [n for n, name in enumerate(test.labels) if name != "new"]


def test_a_test_split_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nba,1\ndo,2\n")
    (tmp_path / "test.csv").write_text("text,klass\nba,1\n")
    with pytest.raises(ConfigError, match="no column 'label', there are text, klass"):
        open_splits(text_tiny(), str(tmp_path), "label", Path())


def test_pooling_is_the_mean_over_real_positions() -> None:
    x_BSD = torch.arange(12.0).view(2, 3, 2)
    padding = torch.tensor([[False, False, True], [False, False, False]])
    mask = torch.zeros(2, 3, dtype=torch.bool)
    batch = Batch(mask, mask, Masks.of(mask), padding, padding, 5)
    assert pooled(x_BSD, batch).tolist() == [[1.0, 2.0], [8.0, 9.0]]


def features_by_batch(folder: str) -> list[float]:
    """Differences of clips' features between a pass over several of unequal length and one over each alone."""
    recipe = speech_tiny()
    data = MODALITIES["speech"].open_labelled(recipe, folder, "train", "label", Path())
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


def features_of_sentences(run_dir: Path, folder: str) -> tuple:
    """(features by layer, classes) of some sentences in padded batches, and the same of each sentence alone by hand."""
    source = find_source(run_dir)
    trunk, data = load_trunk(source, CPU), MODALITIES["text"].open_labelled(source.recipe, folder, "train", "kind", source.prepared)
    indices = [n * 37 % len(data.labels) for n in range(40)]
    split = collect(trunk, data, indices, {"x": 0, "y": 1, "z": 2})
    alone = []
    with torch.no_grad():
        for index in indices:
            layers = trunk(torch.from_numpy(data.read(index).clean)[None], None, None, keep_from=0).layers
            alone.append([layer.block_SBD[:, 0].mean(0) for layer in layers])
    return (split.layers, split.labels_N.tolist()), ([torch.stack(layer) for layer in zip(*alone, strict=True)], indices)


def test_features_are_the_means_of_every_blocks_output_over_a_sentence_without_its_padding(told_run: Path, tmp_path: Path) -> None:
    folder = str(write_sentences(tmp_path))
    ((found, (by_hand, indices)),) = run_distributed(features_of_sentences, 1, told_run, folder)
    labels = [number for number, count in enumerate(TRAIN.values()) for _ in range(count)]
    assert found[1] == [labels[index] for index in indices]
    assert len(found[0]) == len(by_hand) == 3
    for features_ND, expected_ND in zip(found[0], by_hand, strict=True):
        torch.testing.assert_close(features_ND, expected_ND, rtol=1e-4, atol=1e-5)
        assert not features_ND.requires_grad, "frozen: no activations are kept for a backward"


def probed_and_by_hand(run_dir: Path, folder: str) -> tuple[ClassifyResult, ClassifyResult]:
    source = find_source(run_dir)
    recipe, scores = source.recipe, []
    train, test = (MODALITIES["text"].open_labelled(recipe, folder, split, "kind", source.prepared) for split in ("train", "test"))
    order = np.random.Generator(np.random.Philox(0)).permutation(len(train.labels)).tolist()
    known = [index for index, name in enumerate(test.labels) if name in TRAIN]
    for trunk in (load_trunk(source, CPU), build_trunk(recipe, CPU)):
        splits = [collect(trunk, *part, {"x": 0, "y": 1, "z": 2}) for part in ((train, order), (test, known))]
        scores.append({"linear": best_ridge(*splits, 3), "knn": best_neighbours(*splits, 3)})
    by_hand = ClassifyResult(*scores, majority=TEST["x"] / len(known), num_classes=len(TRAIN), num_test=len(known), split="test")
    return classify_probe(source, folder, "kind", CPU), by_hand


def test_both_networks_are_fitted_on_train_and_scored_on_test_of_the_columns_told(told_run: Path, tmp_path: Path) -> None:
    ((result, by_hand),) = run_distributed(probed_and_by_hand, 1, told_run, str(write_sentences(tmp_path)))
    assert result == by_hand
    scores = {*result.trained.values(), *result.random.values()}
    assert len(scores) == 4, "a network or a classifier in the place of another would be seen"


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


RESULT = ClassifyResult(
    trained={"linear": Score(0.8, 0.01, 5, 0.1), "knn": Score(0.7, 0.02, 4, 10.0)},
    random={"linear": Score(0.4, 0.03, 2, 1.0), "knn": Score(0.3, 0.04, 1, 5.0)},
    majority=0.25,
    num_classes=7,
    num_test=90,
    split="test",
)


def test_every_number_is_stored_under_its_name() -> None:
    source = Source(Path("run"), Path("run/checkpoints/step_00000003"), text_tiny())
    assert RESULT.to_json(source) == {
        **{"task": "classify", "metric": "accuracy", "split": "test", "mean": 0.8, "std": 0.01, "values": [0.8]},
        **{"from": "run/checkpoints/step_00000003", "majority": 0.25, "num_classes": 7, "num_test": 90},
        "probes": {
            "linear": {"accuracy": 0.8, "layer": 5, "random_init": 0.4},
            "knn": {"accuracy": 0.7, "layer": 4, "random_init": 0.3},
        },
    }


def test_what_is_printed_puts_the_random_network_beside_and_counts_layers_from_one() -> None:
    title, linear, knn, majority = RESULT.lines(text_tiny())
    assert title == "classify, 7 classes, 90 examples of split test, text_tiny:" and majority.split() == ["majority", "0.250"]
    assert " ".join(linear.split()) == ("linear pre-trained 0.800 +- 0.010 (layer 6), random init 0.400 +- 0.030 (layer 3), gain +0.400")
    assert " ".join(knn.split()) == "knn pre-trained 0.700 +- 0.020 (layer 5), random init 0.300 +- 0.040 (layer 2), gain +0.400"


def test_one_class_is_no_question(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nba,1\ndo,1\n")
    source = find_source(tiny_run)
    with pytest.raises(ConfigError, match="one class only, '1'"):
        classify_probe(source, str(tmp_path), "label", torch.device("cpu"))
