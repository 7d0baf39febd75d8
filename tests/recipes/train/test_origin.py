"""The checkpoint with whose weights a run begins: what is found, refused and recorded, and whole runs as a user starts them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from recipes.check import resolve_recipe
from recipes.checkpoint.layout import newest
from recipes.config import Recipe
from recipes.errors import ConfigError
from recipes.modalities.registry import MODALITIES
from recipes.train.origin import check_prepared_with, find_origin, with_kept
from recipes.vision import RECIPES as VISION
from recipes.vision import vision_large_second
from tests.launching import PRETRAIN, PRETRAIN_TEXT, launch, overrides, read_jsonl, refused, tiny_recipe
from tests.made_up import write_book

MATTERS = ("loss", "grad_norm", "lr", "samples", "tokens")


def starting(start: Path, **changes: object) -> Recipe:
    """Return the tiny text recipe that begins with the weights at `start`."""
    return tiny_recipe(start__start_from=start, **changes)


@pytest.fixture
def source(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished tiny text run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "source"))


def train(run_dir: Path, data: Path, *args: object, steps: int = 2) -> list[dict[str, Any]]:
    """Train the tiny text recipe on one rank with further arguments, and return what must be equal in each row of metrics.jsonl."""
    flags = overrides(run__max_steps=steps, model__hidden_dropout=0.1, run__save_steps=1)
    done = launch(PRETRAIN_TEXT, ["--data", data, "--run-dir", run_dir, *flags, *args], run_dir.parent)
    assert done.returncode == 0, done.stderr
    return [{key: row[key] for key in MATTERS} for row in read_jsonl(run_dir / "metrics.jsonl")]


def test_a_run_dir_and_its_checkpoint_are_the_same_origin(source: Path, tmp_path: Path) -> None:
    checkpoint = newest(source)
    assert checkpoint is not None
    origin = find_origin(tmp_path / "new", starting(source))
    assert origin == find_origin(tmp_path / "new", starting(checkpoint)) and origin is not None
    assert (origin.path, origin.step, origin.recipe) == (str(checkpoint), 2, "text_tiny")
    assert origin.kept == {"tokenizer.model": str(source / "tokenizer.model")}
    assert find_origin(tmp_path / "new", tiny_recipe()) is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"frontend__vocab_size": 180}, r"frontend\.vocab_size is 200 there and 180 here; use --set frontend\.vocab_size=200, or name "),
        ({"model__num_layers": 2}, r"model\.num_layers is 1 there and 2 here; .* has 6,654 parameters, this recipe 8,878$"),
        ({"frontend__positions": "absolute"}, r"1 setting differs: frontend\.positions is relative there and absolute here"),
        ({"model__activation": "relu"}, r"is gelu there and relu here; .*accept it with --set run\.accept_changes=model\.activation$"),
    ],
)
def test_weights_that_mean_something_else_in_the_recipe_are_refused_by_setting(
    changes: dict[str, object], complaint: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        find_origin(tmp_path / "new", starting(source, **changes))


def test_dropout_first_values_rates_and_accepted_settings_may_differ(source: Path, tmp_path: Path) -> None:
    free = {"model__hidden_dropout": 0.3, "model__init_std": 0.5, "optim__lr": 1, "run__seed": 7, "mask__prob": 0.5}
    assert find_origin(tmp_path / "new", starting(source, **free))
    accepted = {"model__activation": "relu", "run__accept_changes": "model.activation"}
    assert find_origin(tmp_path / "new", starting(source, **accepted))


def rewrite_recipe(run_dir: Path, **changes: Any) -> None:
    """Change the recipe in the manifest of the run's newest checkpoint."""
    from dataclasses import replace

    from recipes.checkpoint.layout import read_manifest, write_manifest

    folder = newest(run_dir)
    assert folder is not None
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, metadata=manifest.metadata | {"recipe": manifest.metadata["recipe"] | changes}))


def test_a_run_of_another_modality_or_objective_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"weights of the modality text, and recipe vision_tiny is of vision"):
        find_origin(tmp_path / "new", tiny_recipe("vision", start__start_from=source))
    rewrite_recipe(source, objective={"kind": "toys:Classify"})
    with pytest.raises(ConfigError, match=r"weights of the objective toys:Classify, and recipe text_tiny is of data2vec"):
        find_origin(tmp_path / "new", starting(source))


def test_a_damaged_newest_checkpoint_is_named_with_the_one_before_it_and_nothing_is_chosen(source: Path, tmp_path: Path) -> None:
    checkpoint = newest(source)
    assert checkpoint is not None
    older = Path(shutil.copytree(checkpoint, checkpoint.with_name("step_00000001")))
    (checkpoint / "rank_00000.safetensors").unlink()
    with pytest.raises(
        ConfigError, match=rf"start\.start_from {checkpoint}: rank_00000\.safetensors is missing; .* --set start\.start_from={older}$"
    ):
        find_origin(tmp_path / "new", starting(source))


def test_places_without_a_checkpoint_and_the_run_dir_itself_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^start\.start_from .*nothing: no such folder; name a run dir"):
        find_origin(tmp_path / "new", starting(tmp_path / "nothing"))
    (source / "metrics.jsonl").unlink()
    assert find_origin(source.parent, starting(source)), "a run below the run dir is another run"
    own = newest(source)
    assert own is not None
    kept = own.rename(own.with_name("kept"))
    with pytest.raises(ConfigError, match=r"another --run-dir$"):
        find_origin(source, starting(kept))
    shutil.rmtree(source / "checkpoints")
    with pytest.raises(ConfigError, match="the run has no complete checkpoint yet"):
        find_origin(tmp_path / "new", starting(source))


def test_a_recipe_that_continues_a_run_is_refused_without_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vision_large_second continues .* name that run with --set start\.start_from=RUN_DIR"):
        find_origin(tmp_path / "new", vision_large_second())
    assert find_origin(tmp_path / "new", resolve_recipe("vision_large_second", VISION, ["start.required=false"], None)) is None


def test_another_tokenizer_is_refused_and_a_lost_one_may_be_given(source: Path, tmp_path: Path) -> None:
    other, own = tmp_path / "other.model", tmp_path / "own.model"
    shutil.copyfile(Path(__file__).parents[2] / "old_runs" / "text" / "data" / "tokenizer.model", other)
    shutil.copyfile(source / "tokenizer.model", own)
    with pytest.raises(ConfigError, match=r"other\.model is not the tokenizer\.model of .* --set data\.tokenizer=.*tokenizer\.model$"):
        find_origin(tmp_path / "new", starting(source, data__tokenizer=other))
    assert find_origin(tmp_path / "new", starting(source, data__tokenizer=own))
    for folder in (source, source / "prepared"):
        (folder / "tokenizer.model").unlink()
    with pytest.raises(ConfigError, match=r"its tokenizer\.model \(sha256 \w{12}\) is not in .*; give it with --set data\.tokenizer=FILE"):
        find_origin(tmp_path / "new", starting(source))
    found = find_origin(tmp_path / "new", starting(source, data__tokenizer=own))
    assert found and found.kept == {"tokenizer.model": str(own)}


def test_a_prepared_folder_with_another_tokenizer_is_refused(source: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(data__path=write_book(tmp_path / "other.txt", num_lines=600))
    prepared = MODALITIES["text"].prepare(recipe, tmp_path / "prepared", num_processes=1)
    files = {"tokenizer.model": source / "tokenizer.model"}
    with pytest.raises(ConfigError, match=r"its tokenizer\.model is not that of the run in start\.start_from.*--set data\.tokenizer="):
        check_prepared_with(prepared, files)
    again = MODALITIES["text"].prepare(with_kept(recipe, files), tmp_path / "again", num_processes=1)
    check_prepared_with(again, files)


def test_a_new_run_begins_at_0_on_other_data_with_the_old_tokenizer_and_records_its_origin(source: Path, tmp_path: Path) -> None:
    other = write_book(tmp_path / "other.txt", num_lines=600)
    rows = train(tmp_path / "new", other, "--set", f"start.start_from={source}")
    random = train(tmp_path / "random", other)
    assert rows[0]["lr"] == 0 and rows[0]["samples"] == 8 and rows[0]["loss"] != random[0]["loss"]
    tokenizers = [
        (run / name).read_bytes() for run in (source, tmp_path / "new") for name in ("tokenizer.model", "prepared/tokenizer.model")
    ]
    assert len(set(tokenizers)) == 1 and (tmp_path / "random" / "tokenizer.model").read_bytes() not in tokenizers
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    begun = read_jsonl(tmp_path / "new" / "events.jsonl")[0]
    assert config["start_from"] == begun["start_from"] and begun["event"] == "start"
    assert begun["start_from"]["path"] == str(newest(source)) and begun["start_from"]["step"] == 2
    assert config["recipe"]["start"]["start_from"] == str(source)


@pytest.mark.slow
def test_a_run_that_began_with_other_weights_resumes_bit_for_bit_when_these_are_gone(source: Path, tiny_text: Path, tmp_path: Path) -> None:
    start = ("--set", f"start.start_from={source}", "--set", "start.teacher=stored")
    whole = train(tmp_path / "whole", tiny_text, *start, steps=4)
    train(tmp_path / "cut", tiny_text, *start, steps=2)
    shutil.rmtree(source)
    assert train(tmp_path / "cut", tiny_text, steps=3) == whole[:3]
    assert train(tmp_path / "cut", tiny_text, *start, steps=4) == whole
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert config["recipe"]["start"] == {"start_from": str(source), "teacher": "stored", "required": False}
    done = launch(PRETRAIN_TEXT, ["--run-dir", tmp_path / "cut", *overrides(model__hidden_dropout=0.1), *start[:2]], tmp_path)
    refused(done, r"began with start\.teacher=stored, not start\.teacher=student; leave it out, or name another --run-dir$")


def test_without_a_checkpoint_of_its_own_a_run_begins_again_with_the_same_weights(source: Path, tiny_text: Path, tmp_path: Path) -> None:
    start = ("--set", f"start.start_from={source}")
    first = train(tmp_path / "new", tiny_text, *start)
    shutil.rmtree(tmp_path / "new" / "checkpoints")
    assert train(tmp_path / "new", tiny_text) == first
    shutil.rmtree(tmp_path / "new" / "checkpoints")
    rewrite_recipe(source, name="text_other")
    done = launch(PRETRAIN_TEXT, ["--data", tiny_text, "--run-dir", tmp_path / "new", *overrides(model__hidden_dropout=0.1)], tmp_path)
    refused(done, r"is not the checkpoint any more with which this run began, .* another --run-dir$")


def test_a_start_that_fails_leaves_no_run_and_its_data_are_prepared_again_for_another_start(
    source: Path, tiny_text: Path, tmp_path: Path
) -> None:
    new, other = tmp_path / "new", write_book(tmp_path / "other.txt", num_lines=600)
    changes = ["--set", "model.ffn_hidden_size=64", "--set", "run.accept_changes=model.ffn_hidden_size"]
    done = launch(
        PRETRAIN_TEXT, ["--data", other, "--run-dir", new, *overrides(), *changes, "--set", f"start.start_from={source}"], tmp_path
    )
    refused(done, r"\.fc1\.weight is \(32, 16\) in the checkpoint and \(64, 16\) in this recipe; .*start\.start_from$")
    assert {path.name for path in new.iterdir()} == {"prepared"}
    foreign = (new / "prepared" / "tokenizer.model").read_bytes()
    train(new, other)
    assert (new / "tokenizer.model").read_bytes() != foreign == (source / "tokenizer.model").read_bytes()


def test_a_dry_run_says_with_what_the_run_begins_or_why_not(source: Path, tiny_text: Path, tmp_path: Path) -> None:
    args = ["--data", tiny_text, "--run-dir", tmp_path / "new", "--dry-run", *overrides(), "--set", f"start.start_from={source}"]
    done = launch(PRETRAIN_TEXT, args, tmp_path)
    assert f"start: {newest(source)} (step 2 of text_tiny); the teacher begins as the student\n" in done.stdout, done.stderr
    refused(launch(PRETRAIN_TEXT, [*args, "--set", "model.num_layers=2"], tmp_path), r"model\.num_layers is 1 there and 2 here")
    assert not (tmp_path / "new").exists()


def test_each_modality_begins_with_the_weights_of_its_run(modality: str, tiny_done: Path, tiny_data: Path, tmp_path: Path) -> None:
    args = ["--data", tiny_data, "--run-dir", tmp_path / "new", *overrides(modality), "--set", f"start.start_from={tiny_done}"]
    done = launch(PRETRAIN[modality], args, tmp_path)
    assert done.returncode == 0, done.stderr
    line = rf"begins with the weights of \S+step_00000002, step 2 of {modality}_tiny; the teacher begins as the student\n"
    assert re.search(line, done.stdout), done.stdout
