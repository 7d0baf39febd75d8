"""The cloze probe on a tiny run: which words it asks for, that the answer is hidden, and what it reports."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch

from recipes.data.shards import load_prepared, map_array
from recipes.data.text import TextDataset
from recipes.errors import ConfigError
from recipes.finetune import cloze
from recipes.finetune.cloze import WORD_START, ClozeResult, cloze_probe, collect, frequent_words
from recipes.finetune.ridge import Score
from recipes.finetune.trunk import build_trunk, find_source
from tests.distributed import run_distributed
from tests.launching import tiny_recipe

CPU = torch.device("cpu")


def test_the_words_are_the_most_frequent_whole_ones(tiny_prepared: Path) -> None:
    words = frequent_words(tiny_prepared)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tiny_prepared / "tokenizer.model"))
    pieces = [tokenizer.id_to_piece(int(word)) for word in words]
    assert all(piece.startswith(WORD_START) and piece[1:].isalpha() for piece in pieces), pieces
    counts = np.bincount(map_array(tiny_prepared / "tokens.bin", load_prepared(tiny_prepared).dtype), minlength=200)
    assert (np.diff(counts[words]) <= 0).all() and counts[words[-1]] > 0
    others = set(range(199)) - set(words.tolist())
    assert not [n for n in others if counts[n] > 0 and tokenizer.id_to_piece(n)[0] == WORD_START and tokenizer.id_to_piece(n)[1:].isalpha()]
    assert 2 <= len(words) <= cloze.NUM_WORDS


def collected(prepared: Path) -> dict:
    """Features and labels of some rows, by the probe and by hand."""
    recipe = tiny_recipe()
    trunk, data = build_trunk(recipe, CPU), TextDataset(prepared, "train", mask=cloze.MASK, seed=cloze.SEED)
    words = frequent_words(prepared)
    classes_V = np.full(recipe.frontend.vocab_size, -1)
    classes_V[words] = np.arange(len(words))
    split = collect(trunk, data, 40, 0, classes_V)
    again = collect(trunk, data, 40, 0, classes_V)
    label_N, feature_ND, inputs = [], [], []
    with torch.no_grad():
        for index in [i * len(data) // 40 for i in range(40)]:
            example = data.example(0, index)
            output = trunk(torch.from_numpy(example.inputs)[None], None, None, keep_from=0)[1][0].block_SBD[:, 0]
            chosen = [s for s in range(len(example.clean)) if example.mask[s] and classes_V[example.clean[s]] >= 0]
            label_N += [int(classes_V[example.clean[s]]) for s in chosen]
            inputs += [int(example.inputs[s]) for s in chosen]
            feature_ND.append(output[chosen])
    return {
        "same": torch.equal(split.labels_N, again.labels_N) and torch.equal(split.layers[0], again.layers[0]),
        "layers": len(split.layers),
        "labels": (split.labels_N.tolist(), label_N),
        "features": (split.layers[0], torch.cat(feature_ND)),
        "inputs": set(inputs),
    }


def test_features_are_taken_at_blanks_and_labels_are_what_stood_there(tiny_prepared: Path) -> None:
    (found,) = run_distributed(collected, 1, tiny_prepared)
    assert found["same"] and found["layers"] == 1
    assert found["labels"][0] == found["labels"][1] and len(found["labels"][0]) > 50
    torch.testing.assert_close(*found["features"], rtol=1e-4, atol=1e-5)
    assert found["inputs"] == {199}, "only <mask> is seen where the word stood"


def probed(run_dir: Path) -> tuple[dict, int]:
    source = find_source(run_dir)
    result = cloze_probe(source, source.prepared, CPU)
    return dataclasses.asdict(result) | {"json": result.to_json(source)}, len(frequent_words(source.prepared))


def test_a_probe_reports_both_networks_the_majority_and_real_counts(tiny_run: Path) -> None:
    ((result, num_words),) = run_distributed(probed, 1, tiny_run)
    assert 0 <= result["majority"] <= 1 and result["num_test"] > 10
    for name in ("trained", "random"):
        assert 0 <= result[name]["accuracy"] <= 1 and result[name]["layer"] == 0
    stored = result["json"]
    assert stored["num_words"] == num_words < cloze.NUM_WORDS, "as many as there were, not as many as were asked for"
    assert {"task", "metric", "split", "mean", "std", "values", "from", "random_init", "majority"} <= set(stored)
    assert (stored["mean"], stored["from"]) == (result["trained"]["accuracy"], str(tiny_run / "checkpoints" / "step_00000002"))


def no_words(prepared: Path) -> str:
    recipe = tiny_recipe()
    try:
        collect(build_trunk(recipe, CPU), TextDataset(prepared, "valid", mask=cloze.MASK, seed=0), 10, 0, np.full(200, -1))
    except ConfigError as error:
        return str(error)
    return "nothing was refused"


def test_text_without_any_of_the_words_is_refused(tiny_prepared: Path) -> None:
    assert run_distributed(no_words, 1, tiny_prepared)[0].startswith("the held-out text has no frequent word to probe; give more text")


def test_too_few_whole_words_are_refused(tiny_prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloze, "WORD_START", "\u2603")
    with pytest.raises(ConfigError, match="0 whole-word pieces in its text; the cloze probe needs more text"):
        frequent_words(tiny_prepared)


def test_what_is_printed_puts_the_random_network_beside() -> None:
    result = ClozeResult(Score(0.3, 0.01, 2, 1.0), Score(0.1, 0.005, 0, 1.0), 0.05, 150, 900)
    lines = result.lines(tiny_recipe())
    assert lines[0] == "cloze, 150 words, 900 held-out blanks, text_tiny:"
    assert lines[1].split() == ["pre-trained", "0.300", "+-", "0.010", "(layer", "3)"]
    assert lines[2].split() == ["random", "init", "0.100", "+-", "0.005", "(layer", "1)"]
    assert lines[3].split() == ["majority", "0.050"] and lines[4].endswith("= 3.00")
