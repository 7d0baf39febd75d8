"""A model of Hugging Face as the source of a fine-tuned run: imported once, by one rank, and the same run afterwards as one that was
imported by launch/convert.py."""

import json
import shutil
import threading
from pathlib import Path

import pytest

from recipes.checkpoint.layout import newest
from recipes.errors import ConfigError
from recipes.finetune import imported_source
from recipes.finetune.imported_source import FOLDER, imported_run, names_model
from tests.launching import PRETRAIN_TEXT, ROOT, contents, launch, overrides, read_jsonl, refused, start_ranks
from tests.recipes.finetune.made_up_reviews import FINETUNE, arguments, finetune, write_reviews
from tests.recipes.interop.sources import hf_copy, sentencepiece_model

CONVERT = ROOT / "launch" / "convert.py"
SHORT = ("--set", "finetune.epochs=0.5")
MATTERS = ("loss", "grad_norm", "lr", "eval_loss")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A text model with its tokenizer."""
    folder = hf_copy("text", tmp_path / "hf")
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    return folder


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    return write_reviews(tmp_path / "data")


def curve(run_dir: Path) -> list[dict[str, object]]:
    return [{name: row.get(name) for name in MATTERS} for row in read_jsonl(run_dir / "metrics.jsonl")]


def test_a_folder_with_a_model_type_and_a_short_name_that_is_no_path_name_a_model(tiny_run: Path, model: Path) -> None:
    assert names_model(str(model)) and names_model("facebook/data2vec-text-base") and names_model("roberta")
    assert not any(map(names_model, (str(tiny_run), "/no/such/folder", "./facebook/data2vec", "runs/a/checkpoints/step_1")))


def test_a_model_is_imported_into_the_run_dir_and_begins_as_an_imported_run_does(model: Path, reviews: Path, tmp_path: Path) -> None:
    done = finetune(reviews, "hf", tmp_path / "new", *SHORT)
    assert done.returncode == 0, done.stderr + done.stdout
    imported = tmp_path / "new" / FOLDER
    lines = done.stdout.splitlines()
    assert lines[0] == f"importing hf into {imported}" and lines.count("imported") == 0
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["start_from"]["path"] == str(newest(imported)) and config["recipe"]["finetune"]["imported_from"] == str(model)
    assert (tmp_path / "new" / "tokenizer.model").read_bytes() == sentencepiece_model()
    before = launch(CONVERT, ["import", "--from", "hf", "--run-dir", "own"], tmp_path)
    assert before.returncode == 0, before.stderr
    assert finetune(reviews, tmp_path / "own", tmp_path / "other", *SHORT).returncode == 0
    assert curve(tmp_path / "other") == curve(tmp_path / "new")


@pytest.mark.slow
def test_a_run_goes_on_after_its_model_and_the_import_were_deleted_and_another_model_is_refused(
    model: Path, reviews: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "new"
    stopped = finetune(reviews, "hf", run_dir, "--set", "run.max_minutes=0.0001")
    assert stopped.returncode == 75, stopped.stderr + stopped.stdout
    other = shutil.copytree(model, tmp_path / "other")
    shutil.rmtree(model)
    shutil.rmtree(run_dir / FOLDER)
    refused(finetune(reviews, other, run_dir), r"holds a run that began with .*/hf, not with .*/other; leave --from out, or name another")
    refused(finetune(reviews, "random", run_dir), r"holds a run that began with .*/hf, not with random weights; leave --from out")
    done = finetune(reviews, "hf", run_dir, "--set", "run.max_minutes=0")
    assert done.returncode == 0, done.stderr
    assert "resumed at step" in done.stdout and not (run_dir / FOLDER).exists()


def test_a_dry_run_describes_the_model_and_writes_nothing(model: Path, reviews: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    done = finetune(reviews, "hf", tmp_path / "new", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    first, second, *_ = done.stdout.splitlines()
    assert first.startswith(f"--from hf: would be imported into {tmp_path / 'new' / FOLDER}, ")
    count = first.split(", ")[-1].removesuffix(" parameters of the trunk")
    assert f"(trunk {count}," in second.replace(",", "_").replace("_", ",")
    assert contents(tmp_path) == before


def test_a_model_without_tokenizer_asks_for_one_and_takes_it(model: Path, reviews: Path, tmp_path: Path) -> None:
    (model / "tokenizer.model").rename(tmp_path / "own.model")
    complaint = r"was imported without the tokenizer by which its embeddings were learned; give it with --set data\.tokenizer=FILE$"
    refused(finetune(reviews, "hf", tmp_path / "new", *SHORT), complaint)
    done = finetune(reviews, "hf", tmp_path / "new", *SHORT, "--set", "data.tokenizer=own.model")
    assert done.returncode == 0, done.stderr


def test_a_model_of_another_modality_is_refused_before_anything_is_written(reviews: Path, tmp_path: Path) -> None:
    hf_copy("audio", tmp_path / "hf")
    refused(finetune(reviews, "hf", tmp_path / "new"), r"--from hf: is a model of speech; use launch/finetune_speech\.py$")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_our_own_export_is_a_source(tiny_text: Path, reviews: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    done = launch(PRETRAIN_TEXT, ["--data", tiny_text, "--run-dir", source, *overrides(frontend__positions="absolute")], tmp_path)
    assert done.returncode == 0, done.stderr
    done = launch(CONVERT, ["export", "--from", source, "--out", tmp_path / "exported"], tmp_path)
    assert done.returncode == 0, done.stderr
    done = finetune(reviews, tmp_path / "exported", tmp_path / "new", *SHORT)
    assert done.returncode == 0, done.stderr + done.stdout
    assert finetune(reviews, source, tmp_path / "direct", *SHORT).returncode == 0
    assert curve(tmp_path / "new")[0]["loss"] == pytest.approx(curve(tmp_path / "direct")[0]["loss"], rel=1e-5)


@pytest.mark.slow
def test_one_of_two_ranks_imports_and_the_other_one_waits(model: Path, reviews: Path, tmp_path: Path) -> None:
    ranks = start_ranks(FINETUNE["text"], arguments(reviews, "hf", tmp_path / "new", *SHORT), tmp_path, 2)
    first, second = ranks.wait(timeout=200)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout.startswith("importing ") and "importing" not in second.stdout


def test_another_rank_waits_for_the_complete_folder_with_a_bound(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imported_source, "is_first_rank", lambda: False)
    monkeypatch.setattr(imported_source, "POLL_SECONDS", 0.01)
    made = tmp_path / "made"
    made.mkdir()
    (made / "config.json").write_text(json.dumps({"imported": {"from": str(model)}}))
    threading.Timer(0.1, lambda: made.rename(tmp_path / FOLDER)).start()
    assert imported_run(str(model), "text", tmp_path) == tmp_path / FOLDER
    monkeypatch.setattr(imported_source, "LONGEST_IMPORT_SECONDS", 0.05)
    with pytest.raises(ConfigError, match=r"the first rank has not imported it into .*/late/source in 0 s; put --run-dir on a file system"):
        imported_run(str(model), "text", tmp_path / "below" / "late")


def test_runs_of_several_seeds_share_the_import_beside_them_and_something_else_is_refused(model: Path, tmp_path: Path) -> None:
    shared = tmp_path / FOLDER
    shared.mkdir()
    (shared / "config.json").write_text(json.dumps({"imported": {"from": str(model)}}))
    assert imported_run(str(model), "text", tmp_path / "seed_1") == shared
    with pytest.raises(ConfigError, match=r"--from /other: .*/source has .*/hf; remove it, or name another --run-dir"):
        imported_run("/other", "text", tmp_path)
