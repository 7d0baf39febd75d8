"""The cloze probe (it predicts masked words): its words, that they are hidden, which network and split it scores, and its report."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch

from model.config import TokenMaskConfig
from recipes.data.prepare import prepare_text
from recipes.data.shards import load_prepared, map_array
from recipes.data.text import TextDataset
from recipes.data.tokenizer_json import WORD_START
from recipes.errors import ConfigError
from recipes.finetune import cloze
from recipes.finetune.cloze import ClozeResult, cloze_probe, collect, frequent_words
from recipes.finetune.ridge import best_ridge
from recipes.finetune.score import Score
from recipes.interop.trunk import TrainedRun, build_trunk, find_run, load_trunk
from tests.distributed import run_distributed
from tests.launching import tiny_recipe

CPU = torch.device("cpu")


def test_the_words_are_the_most_frequent_whole_words(tiny_prepared: Path) -> None:
    words = frequent_words(tiny_prepared)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tiny_prepared / "tokenizer.model"))
    pieces = [tokenizer.id_to_piece(int(word)) for word in words]
    assert all(piece.startswith(WORD_START) and piece[1:].isalpha() for piece in pieces), pieces
    counts = np.bincount(map_array(tiny_prepared / "tokens.bin", load_prepared(tiny_prepared).dtype), minlength=200)
    assert (np.diff(counts[words]) <= 0).all() and counts[words[-1]] > 0
    others = set(range(199)) - set(words.tolist())
    assert not [n for n in others if counts[n] > 0 and tokenizer.id_to_piece(n)[0] == WORD_START and tokenizer.id_to_piece(n)[1:].isalpha()]
    assert 2 <= len(words) <= cloze.NUM_WORDS


def test_if_there_are_more_words_than_num_words_the_most_frequent_are_kept(tiny_prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = frequent_words(tiny_prepared).tolist()
    monkeypatch.setattr(cloze, "NUM_WORDS", 3)
    assert frequent_words(tiny_prepared).tolist() == words[:3]


LINE = 31
"""Tokens of a line of prepare_lines with `</s>`: the length of a sample."""


def prepare_text_of(run_dir: Path, lines: list[str], folder: Path) -> Path:
    """Prepare these lines with the settings and the tokenizer of the run."""
    folder.mkdir()
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    recipe: Any = find_run(run_dir).recipe
    data = replace(recipe.data, path=str(folder / "text.txt"), tokenizer=str(run_dir / "prepared" / "tokenizer.model"))
    return prepare_text(data, recipe.frontend, folder / "prepared", num_processes=1)


def prepare_lines(run_dir: Path, folder: Path, shuffled: set[int]) -> Path:
    """Prepare a text of 100 lines. Each line repeats one word; those whose numbers are in `shuffled` have four words at random."""
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(run_dir / "prepared" / "tokenizer.model"))
    four = [tokenizer.id_to_piece(int(word)).removeprefix(WORD_START) for word in frequent_words(run_dir / "prepared")[:4]]
    rng = np.random.default_rng(0)
    lines = [[four[k] for k in rng.integers(4, size=LINE - 1)] if n in shuffled else [four[n % 4]] * (LINE - 1) for n in range(100)]
    return prepare_text_of(run_dir, [" ".join(line) for line in lines], folder)


def collected(run_dir: Path) -> dict:
    """Return features and labels of some rows from the probe, and those computed in the test: for each row alone, without padding."""
    probed = find_run(run_dir)
    trunk, data = build_trunk(probed.recipe, CPU), TextDataset(probed.prepared, "train", mask=cloze.MASK, seed=cloze.SEED)
    words = frequent_words(probed.prepared)
    classes_V = np.full(200, -1)
    classes_V[words] = np.arange(len(words))
    split = collect(trunk, data, 45, 0, classes_V)
    again = collect(trunk, data, 45, 0, classes_V)
    label_N, feature_LND, inputs = [], [[], [], []], []
    with torch.no_grad():
        for index in [i * len(data) // 45 for i in range(45)]:
            example = data.example(0, index)
            layers = trunk(torch.from_numpy(example.inputs)[None], None, None, keep_from=0).layers
            chosen = [s for s in range(len(example.clean)) if example.mask[s] and classes_V[example.clean[s]] >= 0]
            label_N += [int(classes_V[example.clean[s]]) for s in chosen]
            inputs += [int(example.inputs[s]) for s in chosen]
            for feature_ND, layer in zip(feature_LND, layers, strict=True):
                feature_ND.append(layer.block_SBD[chosen, 0])
    return {
        "same": torch.equal(split.labels_N, again.labels_N) and torch.equal(split.layers[0], again.layers[0]),
        "labels": (split.labels_N.tolist(), label_N),
        "features": (split.layers, [torch.cat(feature_ND) for feature_ND in feature_LND]),
        "inputs": set(inputs),
        "is_frozen": not any(features_ND.requires_grad for features_ND in split.layers),
        "whole": (collect(trunk, data, 10_000, 0, classes_V).labels_N.tolist(), blanks_of(data, classes_V)),
    }


def blanks_of(data: TextDataset, classes_V: np.ndarray) -> list[int]:
    """Return the classes of all blanks of the data, in order. A blank is a masked word."""
    examples = [data.example(0, index) for index in range(len(data))]
    return [int(number) for example in examples for number in classes_V[example.clean[example.mask]] if number >= 0]


def test_features_of_every_block_are_taken_at_blanks_and_labels_are_the_masked_words(distinct_run: Path) -> None:
    (found,) = run_distributed(collected, 1, distinct_run)
    assert found["same"] and found["is_frozen"]
    assert found["labels"][0] == found["labels"][1] and len(found["labels"][0]) > 50
    torch.testing.assert_close(*found["features"], rtol=1e-4, atol=1e-5)
    assert found["inputs"] == {199}, "the input at a blank is <mask>"
    assert found["whole"][0] == found["whole"][1], "data with fewer samples than the limit are read once, to the end"


FIT, TEST = 60, 45
"""Numbers of samples, instead of thousands."""


def probed_and_by_hand(run_dir: Path, prepared: Path) -> tuple[dict, ClozeResult, ClozeResult]:
    """Return (results.json entry, result, expected result) on prepared text that is not the run's own."""
    cloze.FIT_SAMPLES, cloze.TEST_SAMPLES = FIT, TEST
    probed, words, scores = find_run(run_dir), frequent_words(prepared), []
    classes_V = np.full(200, -1)
    classes_V[words] = np.arange(len(words))
    fit_data, test_data = (TextDataset(prepared, split, mask=TokenMaskConfig(0.15, 1), seed=0) for split in ("train", "valid"))
    for trunk in (load_trunk(probed, CPU), build_trunk(probed.recipe, CPU)):
        fit, held_out = collect(trunk, fit_data, FIT, 1 << 30, classes_V), collect(trunk, test_data, TEST, 0, classes_V)
        scores.append(best_ridge(fit, held_out, len(words)))
    most = fit.labels_N.mode().values
    majority = float((held_out.labels_N == most).double().mean())
    by_hand = ClozeResult(*scores, majority=majority, num_words=len(words), num_test=len(held_out.labels_N))
    result = cloze_probe(probed, prepared, CPU)
    return result.to_json(probed), result, by_hand


def test_both_networks_are_fitted_on_the_training_and_scored_on_the_held_out_blanks_of_the_text_given(
    distinct_run: Path, tiny_text: Path, tmp_path: Path
) -> None:
    other_prepared = prepare_text_of(distinct_run, tiny_text.read_text().splitlines()[::-3], tmp_path / "other")
    ((stored, result, by_hand),) = run_distributed(probed_and_by_hand, 1, distinct_run, other_prepared)
    assert result == by_hand
    assert result.trained != result.random, "if they differ, a swapped network is noticed"
    assert stored["num_words"] == result.num_words < cloze.NUM_WORDS, "the number of words found, not NUM_WORDS"


def test_the_fit_has_three_times_the_samples_of_the_test_and_masks_that_no_training_draws() -> None:
    assert cloze.FIT_SAMPLES == 3 * cloze.TEST_SAMPLES == 3000
    assert cloze.FIT_EPOCH > 1_000_000 and cloze.MASK.prob < 0.2


def cloze_results(run_dir: Path, prepared: list[Path]) -> list[ClozeResult]:
    return [cloze_probe(find_run(run_dir), folder, CPU) for folder in prepared]


def test_words_that_their_line_repeats_are_all_predicted_and_random_words_are_guessed(distinct_run: Path, tmp_path: Path) -> None:
    """A line repeats one of four words 30 times. In the second text, the held-out lines have random words instead. With any weights, the
    features of a repeating line give its word. So a high score on the second text would mean that the training split was tested."""
    everywhere = prepare_lines(distinct_run, tmp_path / "repeated", set())
    heldout = set((np.load(everywhere / "valid.npy")[:, 0] // LINE).tolist())
    results = run_distributed(cloze_results, 1, distinct_run, [everywhere, prepare_lines(distinct_run, tmp_path / "random", heldout)])[0]
    for name in ("trained", "random"):
        repeated, shuffled = (getattr(result, name) for result in results)
        assert repeated.accuracy > 0.9, "far from chance; not 1, since a few updates decide how well 16 channels keep four words apart"
        assert 0.1 < shuffled.accuracy < 0.4, "chance is a quarter, with four words"
        assert shuffled.standard_error == pytest.approx((shuffled.accuracy * (1 - shuffled.accuracy) / results[1].num_test) ** 0.5)


def no_words(prepared: Path) -> str:
    recipe = tiny_recipe()
    try:
        collect(build_trunk(recipe, CPU), TextDataset(prepared, "valid", mask=cloze.MASK, seed=0), 10, 0, np.full(200, -1))
    except ConfigError as error:
        return str(error)
    return "nothing was refused"


def test_text_without_any_of_the_words_is_refused(tiny_prepared: Path) -> None:
    assert run_distributed(no_words, 1, tiny_prepared)[0].startswith("the held-out text has no frequent word to probe; give more text")


def few_blanks(run_dir: Path) -> str:
    """Return the error of a probe that is tested on one sample."""
    probed = find_run(run_dir)
    cloze.TEST_SAMPLES = 1  # in a process of its own
    with pytest.raises(ConfigError) as caught:
        cloze_probe(probed, probed.prepared, CPU, log=lambda line: None)
    return str(caught.value)


def test_an_accuracy_on_a_few_blanks_is_an_error(distinct_run: Path) -> None:
    (error,) = run_distributed(few_blanks, 1, distinct_run)
    assert re.fullmatch(r"the held-out text has \d+ blanks to test on, fewer than 20; give more text with --data", error)


def test_too_few_whole_words_are_refused(tiny_prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.data.tokenizer_json.WORD_START", "\u2603")
    with pytest.raises(ConfigError, match="0 whole-word pieces in its text; the cloze probe needs more text"):
        frequent_words(tiny_prepared)


RESULT = ClozeResult(Score(0.3, 0.01, 2, 1.0, (0.2, 0.3)), Score(0.1, 0.005, 1, 10.0, (0.1, 0.0)), 0.05, 150, 900)


def test_every_number_is_stored_under_its_name() -> None:
    assert RESULT.to_json(TrainedRun(Path("run"), Path("run/checkpoints/step_00000003"), tiny_recipe())) == {
        **{"metric": "accuracy", "mean": 0.3, "std": 0.01, "values": [0.3]},
        **{"from": "run/checkpoints/step_00000003", "layer": 2, "random_init": 0.1, "random_init_std": 0.005},
        **{"by_layer": {"linear": [0.2, 0.3]}, "random_init_by_layer": {"linear": [0.1, 0.0]}},
        **{"majority": 0.05, "num_words": 150, "num_test": 900},
    }


def test_the_printed_lines_contain_the_random_network_and_count_layers_as_results_json_does() -> None:
    lines = RESULT.lines(TrainedRun(Path("run"), Path("run/checkpoints/step_00000003"), tiny_recipe(), weights="teacher"))
    assert lines[0] == "cloze, 150 words, 900 held-out blanks, text_tiny, teacher:"
    assert [line.split()[:5] for line in lines[1:3]] == [
        ["layer", "1", "linear", "0.200", "(random"],
        ["layer", "2", "linear", "0.300", "(random"],
    ]
    assert lines[3].split() == ["pre-trained", "0.300", "+-", "0.010", "(layer", "2)"]
    assert lines[4].split() == ["random", "init", "0.100", "+-", "0.005", "(layer", "1)"]
    assert lines[5].split() == ["majority", "0.050"] and lines[6].endswith("= 3.00")
