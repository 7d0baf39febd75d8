"""launch/finetune_speech.py: from random weights and from a pre-trained run, transcripts and classes, and what --recipe may name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.launching import PRETRAIN, ROOT, launch, overrides, read_jsonl, refused
from tests.made_up import write_tones
from tests.recipes.data.labelled_recordings import write_data, write_split
from tests.recipes.data.recordings import RATE, encode

FINETUNE = ROOT / "launch" / "finetune_speech.py"
NETWORK = {"teacher.average_top_k_layers", "mask.length", "data.min_seconds", "data.max_seconds", "data.group_size"}
"""Settings of tests.launching's tiny run that a fine-tuning run does not have or does not need."""


def settings(**changes: object) -> list[str]:
    """Return --set flags of a fine-tuning run of three updates with a tiny network."""
    found = overrides("speech", run__max_steps=3, finetune__epochs=0, run__eval_steps=3, data__channel_mask_length=4, **changes)
    pairs = [found[number : number + 2] for number in range(0, len(found), 2)]
    return [part for pair in pairs if pair[1].partition("=")[0] not in NETWORK for part in pair]


def spelled(word: str, seed: int) -> np.ndarray:
    """Return a recording of a word of a, b and c: a tone of 8 to 12 milliseconds for each letter, with noise."""
    rng, parts = np.random.default_rng(seed), list[np.ndarray]()
    for letter in word:
        seconds = np.arange(rng.integers(120, 200)) / RATE
        parts += [0.3 * np.sin(2 * np.pi * {"a": 500, "b": 1500, "c": 4000}[letter] * seconds), np.zeros(60)]
    whole = np.concatenate(parts)
    return (whole + 0.01 * rng.standard_normal(len(whole))).astype(np.float32)


def write_spelled(folder: Path) -> None:
    """Write recordings of random words: 96 for training and 32 others for validation, few enough for a test and enough for a rate."""
    rng = np.random.default_rng(0)
    for split, count, first_seed in (("train", 96, 0), ("valid", 32, 1000)):
        words = ["".join(rng.choice(list("abc"), rng.integers(2, 5))) for _ in range(count)]
        audio = [{"bytes": encode(spelled(word, first_seed + number)), "path": None} for number, word in enumerate(words)]
        write_split(folder, split, [1] * count, audio=audio, text=words)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The splits train and test."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(("task", "metrics"), [("ctc", ["wer", "cer"]), pytest.param("classify", ["accuracy"], marks=pytest.mark.slow)])
def test_random_weights_learn_both_tasks(task: str, metrics: list[str], data: Path, tmp_path: Path) -> None:
    args = ["--from", "random", "--task", task, "--data", data, "--run-dir", "run", *settings()]
    done = launch(FINETUNE, args, tmp_path)
    assert done.returncode == 0, done.stderr
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert len(rows) == 3 and {"eval_loss", *metrics} <= rows[-1].keys()
    assert "no split 'valid': 2 of 24 training samples are held out instead" in done.stdout
    recipe: Any = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]
    assert recipe["objective"]["frozen"] == "nothing" and recipe["frontend"]["exact_padding"]


def test_a_pre_trained_network_is_fine_tuned_also_as_published(data: Path, tmp_path: Path) -> None:
    args = ["--data", write_tones(tmp_path / "raw"), "--run-dir", "before", *overrides("speech", model__hidden_size=24)]
    assert launch(PRETRAIN["speech"], args, tmp_path).returncode == 0
    tune = ["--from", "before", "--task", "ctc", "--data", data, "--set", "run.global_batch_size=8"]
    short = ["--set", "finetune.epochs=1", "--set", "data.num_workers=0", "--set", "objective.frozen_steps=1"]
    done = launch(FINETUNE, [*tune, "--run-dir", "after", *short], tmp_path)
    assert done.returncode == 0, done.stderr
    config: Any = json.loads((tmp_path / "after" / "config.json").read_text())
    assert config["recipe"]["model"]["hidden_size"] == 24 and config["start_from"]["recipe"] == "speech_tiny"
    assert config["recipe"]["objective"]["frozen"] == "features" and config["recipe"]["run"]["max_steps"] == 2
    published = launch(FINETUNE, [*tune, "--recipe", "base_10h", "--dry-run"], tmp_path)
    assert published.returncode == 0, published.stderr
    assert '"max_steps": 20000' in published.stdout and "run dir: runs/speech_ctc_base_10h" in published.stdout


@pytest.mark.slow
def test_new_words_spelled_as_tones_are_transcribed_after_1000_updates(tmp_path: Path) -> None:
    write_spelled(tmp_path / "data")
    steps = {"max_steps": 1000, "eval_steps": 100, "log_steps": 100}
    args = settings(model__hidden_size=64, model__activation_dropout=0, data__time_mask_prob=0, data__channel_mask_prob=0)
    args += [part for name, number in steps.items() for part in ("--set", f"run.{name}={number}")]
    args += ["--set", "optim.lr=0.003", "--set", "optim.schedule_steps=1000", "--set", "optim.decay_steps=50"]
    done = launch(FINETUNE, ["--from", "random", "--task", "ctc", "--data", "data", "--run-dir", "run", *args], tmp_path, timeout=280)
    assert done.returncode == 0, done.stderr
    rates = [row["wer"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl") if "wer" in row]
    # Seeds 0, 1 and 2 end at 0.13, 0.16 and 0.13.
    assert len(rates) == 10 and rates[0] == 1 and rates[-1] <= 0.3, rates


def test_help_names_the_published_configurations(tmp_path: Path) -> None:
    shown = launch(FINETUNE, ["--help"], tmp_path).stdout
    assert all(name in shown for name in ("speech_tiny", "base_10m", "base_960h", "vox_100h", "ctc, classify"))


REFUSED = {
    "no task": (["--from", "random"], r"--task is missing; there are ctc, classify"),
    "published and random": (
        ["--from", "random", "--task", "ctc", "--recipe", "base_10h"],
        r"--recipe base_10h: is a published configuration for a pre-trained network, and --from is random; name a network \(speech_tiny",
    ),
    "no labels": (["--from", "random", "--task", "ctc"], r"the shipped recordings have no labels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    args, complaint = REFUSED[case]
    refused(launch(FINETUNE, [*args, *settings()], tmp_path), complaint)
