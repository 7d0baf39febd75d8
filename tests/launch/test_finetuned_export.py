"""A fine-tuned run from the command: export, pipeline, encoder, embeddings, inspect and import work on it."""

import csv
import random
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from recipes.interop import load_encoder
from recipes.modalities.registry import source_of
from recipes.objectives.classify import ClassTask
from tests.distributed import run_command, run_distributed
from tests.documented import python_blocks
from tests.launching import ROOT, launch
from tests.recipes.interop.task_runs import load_network, outputs_of

WORDS = ["the", "sea", "was", "calm", "that", "evening", "and", "no", "wind", "blew", "over", "sand", "dunes", "near", "our", "house"]
LENGTH = 20
SMALL = {
    "frontend.positions": "absolute",
    **{"frontend.vocab_size": 60, "frontend.max_positions": 32, "data.sequence_length": LENGTH},
    **{"model.num_layers": 2, "model.hidden_size": 32, "model.ffn_hidden_size": 48, "model.num_attention_heads": 4},
    **{"finetune.epochs": 2, "run.global_batch_size": 8, "optim.lr": 5e-3},
}
pytestmark = pytest.mark.slow


class Exported(NamedTuple):
    """A fine-tuned run and its export."""

    run: Path
    out: Path
    rows: list[dict[str, str]]
    """The test split."""
    printed: str
    """What the export printed."""


def write_split(path: Path, count: int, rng: random.Random) -> list[dict[str, str]]:
    """Write pairs of which the class says whether the second text begins as the first one."""
    rows = []
    for _ in range(count):
        first, second = (rng.choices(WORDS, k=rng.randint(1, 12)) for _ in range(2))
        is_same = rng.random() < 0.5
        second[0] = first[0] if is_same else second[0]
        rows.append({"sentence1": " ".join(first), "sentence2": " ".join(second), "label": "same" if is_same else "other"})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def command(*words: object) -> str:
    done = launch(ROOT / str(words[0]), words[1:], ROOT, env={"DS_ACCELERATOR": "cpu"}, timeout=240)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    place, rng = tmp_path_factory.mktemp("finetuned"), random.Random(0)
    data = place / "data"
    data.mkdir()
    rows = [write_split(data / f"{name}.csv", count, rng) for name, count in (("train", 64), ("valid", 24), ("test", 24))][-1]
    settings = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    command("launch/finetune_text.py", *("--from", "random", "--task", "pair", "--data", data, "--run-dir", place / "run"), *settings)
    printed = command("launch/convert.py", "export", "--from", place / "run", "--out", place / "out")
    return Exported(place / "run", place / "out", rows, printed)


def test_the_best_checkpoint_is_exported_and_a_line_says_so(exported: Exported) -> None:
    best = (exported.run / "checkpoints" / "best").read_text().strip()
    assert exported.printed.startswith(f"taken: {exported.run / 'checkpoints' / best}, the best checkpoint (accuracy 0.")
    assert f"{best}: " in exported.printed and 'pipe = pipeline("text-classification"' in exported.printed
    card = (exported.out / "README.md").read_text()
    assert "- task: pair (classify)\n" in card and "- labels: `other`, `same`\n" in card and "- validation: accuracy 0." in card


def own_predictions(run: Path) -> list[tuple[str, float]]:
    """Return this project's predictions for the prepared test split, by the best checkpoint."""
    best = run / "checkpoints" / (run / "checkpoints" / "best").read_text().strip()
    recipe, network = load_network(best)
    source: Any = source_of(recipe)
    split = source.open_split(recipe, run / "prepared", "test")
    objective: Any = recipe.objective
    found = list[tuple[str, float]]()
    for number in range(len(split)):
        batch = split.collate([split.example(0, number)])
        found += [tuple(one) for one in ClassTask(objective).predictions(outputs_of(network, batch), batch)]
    return found


def test_a_pipeline_on_the_export_gives_this_projects_predictions_for_pairs_also_if_cut(exported: Exported) -> None:
    from transformers import pipeline

    (ours,) = run_distributed(own_predictions, 1, exported.run)
    pipe = pipeline("text-classification", model=str(exported.out))
    pairs = [{"text": row["sentence1"], "text_pair": row["sentence2"]} for row in exported.rows]
    lengths = [len(pipe.tokenizer(one["text"], one["text_pair"]).input_ids) for one in pairs]
    assert min(lengths) <= LENGTH < max(lengths), "some are cut, some are not"
    for (label, score), pair in zip(ours, pairs, strict=True):
        found = pipe(dict(pair), truncation=True)
        found = found[0] if isinstance(found, list) else found
        assert found["label"] == label and found["score"] == pytest.approx(score, abs=1e-5)


@pytest.mark.filterwarnings("ignore:.*left out")
def test_the_encoder_of_the_run_and_of_its_export_is_the_trunk(exported: Exported) -> None:
    best = exported.run / "checkpoints" / (exported.run / "checkpoints" / "best").read_text().strip()
    texts = ["the sea was calm", "no wind"]
    torch.testing.assert_close(load_encoder(str(best)).embed(texts), load_encoder(str(exported.out)).embed(texts), atol=1e-5, rtol=0)


def test_a_teacher_is_refused_in_one_line(exported: Exported) -> None:
    words = ("export", "--from", exported.run, "--out", exported.run.parent / "none", "--weights", "teacher")
    done = launch(ROOT / "launch" / "convert.py", words, ROOT)
    assert done.returncode == 2 and "has no teacher; its objective has none, take --weights student" in done.stderr + done.stdout


def test_embed_reads_the_first_of_two_columns(exported: Exported, tmp_path: Path) -> None:
    data = exported.run.parent / "data"
    words = ("launch/embed.py", "--from", exported.run, "--data", data, "--split", "test", "--out", tmp_path / "e.parquet")
    assert "24 embeddings of 32 numbers" in command(*words)


def test_inspect_prints_the_objective_and_its_labels(exported: Exported) -> None:
    assert (
        "objective classify: " in (printed := command("launch/convert.py", "inspect", exported.run)) and "; labels other,same; " in printed
    )


def test_import_takes_the_trunk_of_an_export_and_says_that_the_head_is_left_out(exported: Exported, tmp_path: Path) -> None:
    printed = command("launch/convert.py", "import", "--from", exported.out, "--run-dir", tmp_path / "imported")
    assert "left out: 4 tensors of a task's head (classifier)" in printed
    texts = ["the sea was calm", "no wind"]
    assert torch.equal(load_encoder(str(tmp_path / "imported")).embed(texts), load_encoder(str(exported.out)).embed(texts))


def test_the_python_code_of_the_documentation_runs(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "sst2").symlink_to(exported.out)
    (code,) = python_blocks("interop.md")
    (tmp_path / "block.py").write_text(code)
    done = run_command([sys.executable, "block.py"], tmp_path, 120)
    assert done.returncode == 0 and done.stdout.count("'label': ") == 2, (done.stdout, done.stderr)
