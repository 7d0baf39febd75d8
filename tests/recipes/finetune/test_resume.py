"""A fine-tuned run that is killed and continued is the same run, bit for bit, with its best evaluation and its early end; also if its
source was moved or deleted."""

import json
import shutil
from pathlib import Path

import pytest

from recipes.checkpoint.layout import best_folder, candidates
from tests.launching import contents, launch, read_jsonl, refused, start
from tests.recipes.finetune.made_up_reviews import FINETUNE, arguments, finetune, write_reviews

MATTERS = ("step", "loss", "grad_norm", "lr", "samples", "tokens", "eval_loss", "accuracy")
KEEP = ("--set", "checkpoint.keep_last=20")
PATIENT = (*KEEP, "--set", "eval.patience=2")


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reviews(tmp_path_factory.mktemp("reviews") / "data")


@pytest.fixture(scope="module")
def undisturbed(tiny_run: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with patience. Do not change it."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    done = finetune(reviews, tiny_run, run_dir, *PATIENT)
    assert done.returncode == 0, done.stderr + done.stdout
    return run_dir


def curve(run_dir: Path) -> list[dict[str, object]]:
    return [{name: row.get(name) for name in MATTERS} for row in read_jsonl(run_dir / "metrics.jsonl")]


def tensors(run_dir: Path) -> dict[str, bytes]:
    """Return the files with tensors of the run's newest checkpoint."""
    return {name: content for name, content in contents(candidates(run_dir)[0]).items() if name.startswith("rank_")}


def named_best(run_dir: Path) -> str:
    best = best_folder(run_dir)
    assert best is not None
    return best.name


def kill_after(run_dir: Path, words: list[object], num_rows: int) -> None:
    """Start the command, and kill it when metrics.jsonl has at least `num_rows` rows and a checkpoint is complete."""
    running = start(FINETUNE["text"], words, run_dir.parent)
    metrics = run_dir / "metrics.jsonl"
    running.wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= num_rows and bool(candidates(run_dir)))
    running.process.kill()
    running.process.join(10)
    running.stop()


def test_killed_and_continued_without_its_source_it_is_the_undisturbed_run_bit_for_bit(
    tiny_run: Path, reviews: Path, undisturbed: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(tiny_run, tmp_path / "source"))
    run_dir, length = tmp_path / "run", len(curve(undisturbed))
    kill_after(run_dir, arguments(reviews, source, run_dir, *PATIENT), max(1, length // 2))
    assert not {row["event"] for row in read_jsonl(run_dir / "events.jsonl")} & {"stop", "error"}, "it was killed while it ran"
    shutil.rmtree(source)
    done = finetune(reviews, source, run_dir, *PATIENT)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "resumed at step" in done.stdout
    assert curve(run_dir) == curve(undisturbed)
    assert tensors(run_dir) == tensors(undisturbed)
    assert named_best(run_dir) == named_best(undisturbed)
    values = [json.loads((candidates(one)[0] / "manifest.json").read_text())["facts"]["best"] for one in (run_dir, undisturbed)]
    assert values[0] == values[1]


def test_a_run_that_ended_early_is_finished_and_says_how_it_goes_on(
    tiny_run: Path, reviews: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    last = curve(run_dir)[-1]["step"]
    assert isinstance(last, int) and last < 12, "the made-up reviews are learned before the last update"
    before = contents(run_dir / "checkpoints")
    again = finetune(reviews, tiny_run, run_dir, *PATIENT)
    assert again.returncode == 0, again.stderr
    assert f"is finished (step_{last:08d}); it ended early, since accuracy was not better in 2 evaluations; " in again.stdout
    assert contents(run_dir / "checkpoints") == before
    words = [*PATIENT, "--set", "eval.patience=0", "--set", "run.accept_changes=eval.patience"]
    longer = finetune(reviews, tiny_run, run_dir, *words)
    assert longer.returncode == 0, longer.stderr + longer.stdout
    assert curve(run_dir)[-1]["step"] == 12 and curve(run_dir)[: len(curve(undisturbed))] == curve(undisturbed)
    finished = finetune(reviews, tiny_run, run_dir, *words)
    hint = "its length, finetune.epochs=3 of its data, is fixed; --set finetune.epochs=6 is for a new run"
    assert finished.returncode == 0 and hint in finished.stdout, finished.stderr


def test_a_begun_run_is_the_truth_about_its_network_and_another_source_is_refused(
    tiny_run: Path, reviews: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    refused(finetune(reviews, "random", run_dir, *PATIENT), r"holds a run that began with .*, not with random weights; leave --from out")
    refused(
        finetune(reviews, tmp_path / "another", run_dir, *PATIENT), r"holds a run that began with start\.start_from .*, not .*/another; "
    )
    words = arguments(reviews, tiny_run, run_dir, *PATIENT)
    without = [*words[:2], *words[4:]]
    done = launch(FINETUNE["text"], without, tmp_path)
    assert done.returncode == 0 and "is finished" in done.stdout, done.stderr
    refused(
        launch(FINETUNE["speech"], ["--task", "ctc", "--run-dir", run_dir, "--data", reviews], tmp_path), r"holds a run of text, and this "
    )


def test_a_fine_tuned_run_is_a_source_with_its_best_checkpoint(reviews: Path, undisturbed: Path, tmp_path: Path) -> None:
    done = finetune(reviews, undisturbed, tmp_path / "new", *KEEP)
    assert done.returncode == 0, done.stderr + done.stdout
    best = best_folder(undisturbed)
    assert best is not None and best != candidates(undisturbed)[0]
    stored = json.loads((tmp_path / "new" / "config.json").read_text())
    assert stored["recipe"]["start"]["start_from"] == str(best) and stored["start_from"]["recipe"] == "text_classify"
    assert f"step {int(best.name[5:])} of text_classify; the head begins with random weights" in done.stdout


def test_a_network_with_random_weights_and_the_tokenizer_of_a_run_goes_on_without_that_run(
    tiny_run: Path, reviews: Path, tmp_path: Path
) -> None:
    source, run_dir = Path(shutil.copytree(tiny_run, tmp_path / "source")), tmp_path / "run"
    (tmp_path / "own.py").write_text(OWN_RECIPE)
    words = ["--recipe", "own.py:small", "--set", f"finetune.tokenizer_from={source}"]
    stopped = finetune(reviews, "random", run_dir, *words, "--set", "run.max_minutes=0.0001")
    assert stopped.returncode == 75, stopped.stderr + stopped.stdout
    assert (run_dir / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()
    assert json.loads((run_dir / "config.json").read_text())["recipe"]["frontend"]["vocab_size"] == 200
    shutil.rmtree(source)
    done = finetune(reviews, "random", run_dir, *words, "--set", "run.max_minutes=0")
    assert done.returncode == 0, done.stderr
    refused(finetune(reviews, "random", run_dir, *words[2:]), r"was started with other settings \(\d+ differ: ")


OWN_RECIPE = """
from tests.launching import tiny_recipe

def small():
    return tiny_recipe(frontend__vocab_size=150)
"""


def test_killed_before_its_best_checkpoint_was_named_it_is_named_when_the_run_goes_on(
    tiny_run: Path, reviews: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run_dir, expected = Path(shutil.copytree(undisturbed, tmp_path / "run")), named_best(undisturbed)
    for folder in candidates(run_dir):
        if folder.name > expected:
            shutil.rmtree(folder)
    (run_dir / "checkpoints" / "best").unlink()
    assert candidates(run_dir)[0].name == expected and best_folder(run_dir) is None
    done = finetune(reviews, tiny_run, run_dir, *PATIENT)
    assert done.returncode == 0 and "resumed at step" in done.stdout, done.stderr + done.stdout
    assert named_best(run_dir) == expected
