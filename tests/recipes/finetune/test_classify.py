"""The classification probe: features of every block over real positions only, and which network is scored on what."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.batch import Batch, Masks
from model.trunk import Trunk
from recipes.data.labelled import Labelled
from recipes.data.media import FEW_BAD_ITEMS as FEW
from recipes.data.media import BadItem
from recipes.errors import ConfigError
from recipes.finetune.classify import ClassifyResult, classify_probe, collect, pooled
from recipes.finetune.neighbours import best_neighbours
from recipes.finetune.ridge import LabelledFeatures, best_ridge
from recipes.finetune.score import Score, layer_lines, scores_to_json
from recipes.finetune.splits import Examples
from recipes.interop.trunk import TrainedRun, build_trunk, find_run, load_trunk
from recipes.modalities.registry import MODALITIES
from recipes.speech import speech_tiny
from recipes.text import text_tiny
from recipes.vision import vision_tiny
from tests.distributed import run_distributed
from tests.recipes.finetune.pictures import NUM_IMAGES, write_images
from tests.recipes.finetune.sentences import TEST, TRAIN, write_sentences

CPU = torch.device("cpu")


def features(trunk: Trunk, data: Labelled, indices: list[int], classes: dict[str, int]) -> LabelledFeatures:
    """Collect the features as the probe does, from data that can all be decoded."""
    part, bad = Examples(data, indices, "train"), dict[str, BadItem]()
    found = collect(trunk, part, classes, bad, part.progress("features", print))
    assert not bad
    return found


def test_pooling_is_the_mean_over_real_positions() -> None:
    x_BSD = torch.arange(12.0).view(2, 3, 2)
    padding = torch.tensor([[False, False, True], [False, False, False]])
    mask = torch.zeros(2, 3, dtype=torch.bool)
    batch = Batch(mask, mask, Masks.of(mask), padding, padding, 5)
    assert pooled(x_BSD, batch).tolist() == [[1.0, 2.0], [8.0, 9.0]]


def features_by_batch(folder: str) -> list[float]:
    """Return how much the features of clips differ between a pass over several clips of unequal length and a pass over each clip alone."""
    recipe = speech_tiny()
    data = MODALITIES["speech"].open_labelled(recipe, folder, "train", "label", Path())
    trunk = build_trunk(recipe, torch.device("cpu"))
    classes = {name: number for number, name in enumerate(sorted(set(data.labels)))}
    together = features(trunk, data, [0, 1, 2], classes)
    alone = [features(trunk, data, [number], classes) for number in range(3)]
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
    """Return (features by layer, classes) of some sentences from the probe, in padded batches; and (features by layer, indices) computed in
    the test, for each sentence alone."""
    probed = find_run(run_dir)
    trunk, data = load_trunk(probed, CPU), MODALITIES["text"].open_labelled(probed.recipe, folder, "train", "kind", probed.prepared)
    indices = [n * 37 % len(data.labels) for n in range(40)]
    found = features(trunk, data, indices, {"x": 0, "y": 1, "z": 2})
    alone = []
    with torch.no_grad():
        for index in indices:
            layers = trunk(torch.from_numpy(data.read(index).clean)[None], None, None, keep_from=0).layers
            alone.append([layer.block_SBD[:, 0].mean(0) for layer in layers])
    return (found.layers, found.labels_N.tolist()), ([torch.stack(layer) for layer in zip(*alone, strict=True)], indices)


def test_features_are_the_means_of_every_blocks_output_over_a_sentence_without_its_padding(distinct_run: Path, tmp_path: Path) -> None:
    folder = str(write_sentences(tmp_path))
    ((found, (by_hand, indices)),) = run_distributed(features_of_sentences, 1, distinct_run, folder)
    labels = [number for number, count in enumerate(TRAIN.values()) for _ in range(count)]
    assert found[1] == [labels[index] for index in indices]
    assert len(found[0]) == len(by_hand) == 3
    for features_ND, expected_ND in zip(found[0], by_hand, strict=True):
        torch.testing.assert_close(features_ND, expected_ND, rtol=1e-4, atol=1e-5)
        assert not features_ND.requires_grad, "frozen: no activations are kept for a backward"


def probed_and_by_hand(run_dir: Path, folder: str) -> tuple[ClassifyResult, ClassifyResult]:
    probed = find_run(run_dir)
    recipe, scores = probed.recipe, []
    train, test = (MODALITIES["text"].open_labelled(recipe, folder, split, "kind", probed.prepared) for split in ("train", "test"))
    order = np.random.Generator(np.random.Philox(0)).permutation(len(train.labels)).tolist()
    known = [index for index, name in enumerate(test.labels) if name in TRAIN]
    for trunk in (load_trunk(probed, CPU), build_trunk(recipe, CPU)):
        splits = [features(trunk, *part, {"x": 0, "y": 1, "z": 2}) for part in ((train, order), (test, known))]
        scores.append({"linear": best_ridge(*splits, 3), "knn": best_neighbours(*splits, 3)})
    by_hand = ClassifyResult(*scores, majority=TEST["x"] / len(known), num_classes=len(TRAIN), num_test=len(known), split="test")
    return classify_probe(probed, folder, "kind", CPU), by_hand


def test_both_networks_are_fitted_on_train_and_scored_on_test_of_the_given_columns(distinct_run: Path, tmp_path: Path) -> None:
    ((result, by_hand),) = run_distributed(probed_and_by_hand, 1, distinct_run, str(write_sentences(tmp_path)))
    assert result == by_hand
    scores = {*result.trained.values(), *result.random.values()}
    assert len(scores) == 4, "if they differ, a swapped network or classifier is noticed"


def probe(run: str, folder: str) -> dict:
    """Return the results.json entry of a text run that is probed on sentences of two vocabularies."""
    probed = find_run(Path(run))
    return classify_probe(probed, folder, "label", torch.device("cpu")).to_json(probed)


def test_sentences_of_two_vocabularies_are_distinguished(tiny_run: Path, tmp_path: Path) -> None:
    rows = [f"{' '.join(['ba do', 'ki lu'][n % 2] for _ in range(1 + n % 5))},{'xy'[n % 2]}" for n in range(40)]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    (tmp_path / "test.csv").write_text("text,label\n" + "\n".join(rows[:10]) + "\n")
    (result,) = run_distributed(probe, 1, str(tiny_run), str(tmp_path))
    assert (result["num_classes"], result["num_test"], result["num_bad"], result["majority"]) == (2, 10, 0, 0.5)
    assert result["mean"] == 1.0 and set(result["probes"]) == {"linear", "knn"} and "random_init" in result["probes"]["knn"]


RESULT = ClassifyResult(
    trained={"linear": Score(0.8, 0.01, 2, 0.1, (0.6, 0.8)), "knn": Score(0.7, 0.02, 1, 10.0, (0.7, 0.5))},
    random={"linear": Score(0.4, 0.03, 1, 1.0, (0.4, 0.3)), "knn": Score(0.3, 0.04, 2, 5.0, (0.2, 0.3))},
    majority=0.25,
    num_classes=7,
    num_test=90,
    split="test",
    bad=(BadItem("/pictures/a.png", "not an image"),),
)
PROBED = TrainedRun(Path("run"), Path("run/checkpoints/step_00000003"), text_tiny(), weights="teacher")


def test_every_number_is_stored_under_its_name() -> None:
    assert RESULT.to_json(PROBED) == scores_to_json(RESULT.trained, RESULT.random) | {
        **{"from": "run/checkpoints/step_00000003", "majority": 0.25, "num_classes": 7, "num_test": 90, "num_bad": 1},
        "probes": {
            "linear": {"accuracy": 0.8, "layer": 2, "random_init": 0.4},
            "knn": {"accuracy": 0.7, "layer": 1, "random_init": 0.3},
        },
    }


def test_the_printed_lines_contain_the_random_network_and_count_layers_as_results_json_does() -> None:
    title, *layers, linear, knn, majority, bad = RESULT.lines(PROBED)
    assert title == "classify, 7 classes, 90 examples of split test, text_tiny, teacher:" and majority.split() == ["majority", "0.250"]
    assert layers == layer_lines(RESULT.trained, RESULT.random) and len(layers) == 2
    assert " ".join(linear.split()) == ("linear pre-trained 0.800 +- 0.010 (layer 2), random init 0.400 +- 0.030 (layer 1), gain +0.400")
    assert " ".join(knn.split()) == "knn pre-trained 0.700 +- 0.020 (layer 1), random init 0.300 +- 0.040 (layer 2), gain +0.400"
    assert bad == "left out, cannot be decoded: /pictures/a.png (not an image)"


def left_out(folder: str) -> tuple:
    """Collect features of pictures of which some cannot be decoded. Return number and labels of the others, the bad ones, and the error for
    one bad picture more."""
    trunk, bad = build_trunk(vision_tiny(), CPU), dict[str, BadItem]()
    part = Examples(MODALITIES["vision"].open_labelled(vision_tiny(), folder, "train", "label", Path()), list(range(NUM_IMAGES)), "train")
    for number in range(FEW):
        Path(part.data.where(number)).write_bytes(b"no image")
    found = collect(trunk, part, {"blue": 0, "red": 1}, bad, part.progress("features", print))
    Path(part.data.where(FEW)).unlink()
    try:
        collect(trunk, part, {"blue": 0, "red": 1}, {}, part.progress("features", print))
    except ConfigError as error:
        return len(found.layers[0]), found.labels_N.tolist(), bad, str(error)
    return ()


def test_a_few_undecodable_examples_are_left_out_with_their_labels_and_named_and_more_are_refused(tmp_path: Path) -> None:
    ((num, labels, bad, complaint),) = run_distributed(left_out, 1, str(write_images(tmp_path)))
    assert num == NUM_IMAGES - FEW and labels == [0] * (NUM_IMAGES // 2 - FEW) + [1] * (NUM_IMAGES // 2)
    assert [item.where for item in bad.values()] == list(bad) and set(map(Path, bad)) <= set((tmp_path / "blue").iterdir())
    assert (
        f"{FEW + 1} of {NUM_IMAGES} examples cannot be decoded, more than the {FEW} that the run's data.max_bad_fraction 0.01" in complaint
    )
    assert all(where in complaint for where in bad)


def few(run_dir: Path, folders: list[Path]) -> list[str]:
    """Return the errors for data that are too few to probe."""
    complaints = []
    for folder in folders:
        with pytest.raises(ConfigError) as caught:
            classify_probe(find_run(run_dir), str(folder), "label", CPU)
        complaints.append(str(caught.value))
    return complaints


def test_too_few_examples_are_refused_in_one_line(tiny_run: Path, tmp_path: Path) -> None:
    for name, rows in (("two", "ba,1\ndo,2\n"), ("one", "ba,1\ndo,1\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.csv").write_text(f"text,label\n{rows}")
    ((two, one),) = run_distributed(few, 1, tiny_run, [tmp_path / "two", tmp_path / "one"])
    assert two.endswith("two: 1 examples to fit on and 1 to test on are too few; give more labelled data")
    assert one.endswith("one: the data have one class only, '1'; give data with two or more")
